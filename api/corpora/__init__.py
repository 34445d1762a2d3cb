"""Corpora over HTTP: register domains, read what was measured, measure."""
