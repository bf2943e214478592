"""Judges: models that score rollouts by a rubric, and what their scores are worth."""
