"""Train LLM agents by reinforcement learning on your own machines: rollouts, rewards, updates, runs."""

__version__ = "0.1.0"
