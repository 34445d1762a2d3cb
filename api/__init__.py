"""mixlab's api."""
