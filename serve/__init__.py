"""Serve: how task apps and policies are reachable on Ray Serve."""
