"""Ends what a service leaves behind when its own process is killed.

    python -m cli.watchdog, told on standard input: "+ID" and "-ID" of process groups

Standard input is a pipe from the service. When it closes, for whatever reason,
the groups that are still listed get SIGTERM, and SIGKILL after a while. A
service that stops cleanly has none left by then.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

PATIENCE_SECONDS = 8.0


def remaining(lines: Iterable[str]) -> set[int]:
    """Read to the end; the groups that were started and did not end."""
    groups: set[int] = set()
    for line in lines:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    return groups


def alive(group: int) -> bool:
    """Whether the group has a process; as far as one may know."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end(groups: set[int], patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Ask the groups to stop, then make them."""
    _signal(groups, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while any(map(alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.1)
    _signal(groups, signal.SIGKILL)


def _signal(groups: set[int], number: signal.Signals) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


if __name__ == "__main__":
    end(remaining(sys.stdin))
