"""Parameter inheritance: a smaller model that begins with the best part of a larger one."""
