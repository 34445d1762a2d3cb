"""`make bench-api`: the service under load on SQLite and on PostgreSQL, beside bare peers.

    python -m benchmarks.api [--databases sqlite postgresql] [--output FILE]

Takes about five minutes. Writes benchmarks/results/api.md, or `--output`. Linux.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

from benchmarks.api.load import Timed, request, steadily
from benchmarks.api.measuring import (
    POLL_SECONDS,
    POLLS_A_SECOND,
    SUBMIT_SECONDS,
    SUBMITS_A_SECOND,
    measure,
)
from benchmarks.api.peers import bare_route, round_trips
from benchmarks.api.service import service
from benchmarks.api.writing import document
from benchmarks.laws.writing import machine

OUTPUT = Path(__file__).parents[1] / "results" / "api.md"


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args()
    _allow_many_files()
    found = {}
    for database in asked.databases:
        with service(database) as running:
            found[database] = measure(running)
    text = document(
        found, _bare(), round_trips(200), when=time.strftime("%Y-%m-%d"), machine=machine()
    )
    asked.output.write_text(text)
    sys.stdout.write(text)


def _bare() -> tuple[Timed, Timed]:
    """Polls of, and submits to, the routes that do nothing."""
    with bare_route() as (url, process_id):
        polls = [request(url, "GET", f"/jobs/{n}") for n in range(POLLS_A_SECOND * POLL_SECONDS)]
        submits = [
            request(url, "POST", "/jobs", {"number": n})
            for n in range(SUBMITS_A_SECOND * SUBMIT_SECONDS)
        ]
        return (
            steadily(url, polls, POLLS_A_SECOND, process_id),
            steadily(url, submits, SUBMITS_A_SECOND, process_id),
        )


def _allow_many_files() -> None:
    """A thousand streams are a thousand open files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))


if __name__ == "__main__":
    main()
