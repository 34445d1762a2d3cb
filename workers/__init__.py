"""Celery workers: thin tasks over the ledger; the work runs in subprocesses."""
