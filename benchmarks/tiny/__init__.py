"""What the methods for tiny models bring in our own runs: each beside its baseline, three seeds."""
