"""CLI: verbs, tables, JSON, exit codes. Knows nothing about how jobs work inside."""
