"""The ledger: the truth about corpora, jobs, runs and mixtures, in SQL."""

from mixlab.ledger.sql import Heartbeat, Ledger

__all__ = ["Heartbeat", "Ledger"]
