"""Corpora: text read, tokenised into shards, split, sampled; and named ones fetched."""
