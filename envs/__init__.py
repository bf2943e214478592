"""Envs: the worlds, each as a task. Knows nothing about Ray, torch, serving or jobs."""
