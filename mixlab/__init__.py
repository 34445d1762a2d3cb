"""mixlab: in what proportions to train a language model on your domains."""

__version__ = "0.1.0"
