"""Bodies that do what real ones only do on a bad day; what is around them is real."""
