"""Remote policies: rollouts whose replies come from an OpenAI-compatible endpoint."""
