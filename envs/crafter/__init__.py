"""Crafter: a fast copy of the game, its text, its tools, its scripted expert, and the task made of them."""
