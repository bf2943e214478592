"""Runtime: the only place with long-lived actors and clusters. Knows nothing about the game or the CLI."""
