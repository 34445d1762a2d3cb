"""The ledger: the truth about corpora, jobs, runs and mixtures, in SQL."""
