"""Bring the database of MIXLAB_DATABASE_URL up to date: `python -m mixlab.ledger`."""

import os

from mixlab.ledger.migrating import upgrade

if __name__ == "__main__":
    upgrade(os.environ["MIXLAB_DATABASE_URL"])
