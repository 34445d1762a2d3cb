"""Whether this host's worker is alive: `python -m workers.health [--queue gpu] [--max-age 60]`.

With `--sweep`, whether its sweep is: when it last got through a round.

For a container's health check: exits with 0 where a worker of this host wrote its row lately, with
1 and the reason in all other cases. What counts is that messages are taken (beating.py), not that
a process is there.
Limits: workers of the same host and queue are not told apart; the one heard of last counts.
"""

import argparse
import socket
import sys
import time
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from mixlab.ledger.records import Queue, Worker
from workers.settings import WorkerSettings, open_ledger

MAX_AGE_SECONDS = 60.0


def main(arguments: Sequence[str]) -> int:
    """Say how the worker is; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.health", description=__doc__)
    parser.add_argument("--queue", type=Queue, choices=list(Queue), help="default: any")
    parser.add_argument("--max-age", type=float, default=MAX_AGE_SECONDS, metavar="SECONDS")
    parser.add_argument("--sweep", action="store_true", help="the sweep instead of a worker")
    told = parser.parse_args(arguments)
    if told.sweep:
        return _say(*swept(WorkerSettings(), told.max_age))
    ledger = open_ledger(WorkerSettings(), patient=False)
    try:
        workers, now = ledger.fleet.workers(), ledger.now()
    except SQLAlchemyError as problem:
        return _say(False, f"The ledger can't be asked: {type(problem).__name__}.")
    finally:
        ledger.close()
    return _say(*judged(workers, socket.gethostname(), told.queue, told.max_age, now))


def judged(
    workers: Sequence[Worker], host: str, queue: Queue | None, max_age: float, now: datetime
) -> tuple[bool, str]:
    """Whether the host's worker is alive, and why."""
    own = [one for one in workers if one.host == host and queue in (None, one.queue)]
    whose = f"worker of host {host}" if queue is None else f"{queue} worker of host {host}"
    if not own:
        return False, f"No {whose} has written its row: it starts, has stopped, or was never there."
    newest = max(own, key=lambda one: one.beat_at)
    age = (now - newest.beat_at).total_seconds()
    if age > max_age:
        return False, (
            f"The {whose} was heard of {age:.0f} s ago, more than {max_age:g} s: it hangs, or its "
            "broker or the database is away; see its log."
        )
    return True, f"The {whose} was heard of {max(age, 0.0):.0f} s ago."


def swept(settings: WorkerSettings, max_age: float) -> tuple[bool, str]:
    """Whether the host's sweep got through a round lately, and why."""
    try:
        age = time.time() - settings.sweep_file.stat().st_mtime
    except OSError as problem:
        return False, f"No round of the sweep has left its mark: {problem.strerror}."
    if age > max_age:
        return False, (
            f"The sweep's last round was {age:.0f} s ago, more than {max_age:g} s: the ledger or "
            "the broker is away, or it hangs; see its log."
        )
    return True, f"The sweep's last round was {age:.0f} s ago."


def _say(alive: bool, why: str) -> int:
    (sys.stdout if alive else sys.stderr).write(why + "\n")
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
