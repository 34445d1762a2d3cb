"""The ledger: the truth about corpora, jobs, runs and mixtures, in SQL."""

from mixlab.ledger.attempts import Heartbeat
from mixlab.ledger.sql import Ledger

__all__ = ["Heartbeat", "Ledger"]
