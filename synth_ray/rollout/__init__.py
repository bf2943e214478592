"""Rollout: what an episode is and what it is worth. Knows nothing about training."""
