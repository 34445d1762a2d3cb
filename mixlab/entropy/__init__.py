"""Entropy measures of a domain: pair counts, entropies in nats, and a mixture from them."""
