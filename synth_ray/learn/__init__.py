"""Learn: data in, gradients out. Knows nothing about Ray, HTTP or the game."""
