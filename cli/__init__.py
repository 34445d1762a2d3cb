"""mixlab's cli."""
