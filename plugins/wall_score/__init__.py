"""How well a map of walls agrees with what the phase, and the height, of a real scan say of them."""
