"""How well each law predicts held-out runs, beside its peers: `make bench-laws DATA=DIR`."""
