"""Mixtures over HTTP: fit, solve again, register, read."""
