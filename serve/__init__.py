"""Serve: how task apps and policies are reachable, on Ray Serve or from one uvicorn process."""
