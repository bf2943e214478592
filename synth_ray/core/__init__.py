"""Core: frozen data types, configuration, errors, the disk layout, waiting. Knows nothing about Ray, torch or HTTP."""
