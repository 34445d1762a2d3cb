"""The table, and what stands above it."""

from collections.abc import Mapping
from importlib.metadata import version

from benchmarks.api.load import Timed
from benchmarks.api.measuring import (
    CHILDREN,
    JOBS,
    POLL_SECONDS,
    POLLED,
    POLLS_A_SECOND,
    STREAMED,
    SUBMIT_SECONDS,
    SUBMITS_A_SECOND,
    Measured,
)

PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "sqlalchemy", "psycopg", "celery", "redis")

HEAD = """# The API under load

Made {when} by `make bench-api` on {machine}, with {versions}.

Real processes: API, broker, a cpu and a gpu worker, sweep, and the database, all on this machine
with the load generator and the peers, one after the other. Whatever is sent at a rate is timed from
when it was due, so a stall counts for everything that it delays. The load generator is raw asyncio
and takes about a tenth of what the server takes, of the same cores: figures with cores of its own
are better. PostgreSQL runs without fsync, since this is about the service and not the disk.

* Polls: `GET /jobs/ID` at {polls}/s for {poll_seconds} s, of {polled} jobs in a ledger of {jobs:,};
  a tenth of them for a job with {children} children. Meanwhile the cpu worker fits laws; the
  messages of the ended jobs have been seen before.
* Submits: `POST /corpora/ID/entropy` at {submits}/s for {submit_seconds} s, while it fits on; then
  the same with an Idempotency-Key each. Lost is what was acknowledged and is not in the ledger.
* Streams: open event streams of {streamed} jobs, which then all change at once.
* Round trip: `POST` with `Prefer: wait` until the job has ended; a job is a process of its own.
* Beside them, the same requests to a FastAPI route that does nothing but answer with as many bytes,
  and a Celery task that adds two numbers, with its results on the broker.

"""


def document(
    found: Mapping[str, Measured],
    bare: tuple[Timed, Timed],
    celery: tuple[Timed, Timed, Timed],
    *,
    when: str,
    machine: str,
) -> str:
    """The file as Markdown. `bare` is polls and submits, `celery` sends, states, round trips."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    head = HEAD.format(
        when=when, machine=machine, versions=versions, polls=POLLS_A_SECOND,
        poll_seconds=POLL_SECONDS, polled=POLLED, jobs=JOBS, children=CHILDREN,
        submits=SUBMITS_A_SECOND, submit_seconds=SUBMIT_SECONDS, streamed=STREAMED,
    )  # fmt: skip
    columns = ["", "target", *found, "bare FastAPI", "bare Celery"]
    lines = [_row(columns), _row(["---"] * len(columns))]
    lines += [_row(row) for row in _rows(list(found.values()), bare, celery)]
    return head + "\n".join(lines) + "\n"


def _rows(
    found: list[Measured], bare: tuple[Timed, Timed], celery: tuple[Timed, Timed, Timed]
) -> list[list[str]]:
    polls, submits = bare
    sending, asking, whole = celery
    streams = [one.streams for one in found]
    return [
        ["status polls, p50 / p99 ms", "p99 < 100", *(_ms(one.polls) for one in found),
         _ms(polls), _ms(asking)],
        ["polls answered 200", "all", *(_all(one.polls, 200) for one in found),
         _all(polls, 200), ""],
        ["server's CPU a poll, ms", "", *(_cpu(one.polls) for one in found), _cpu(polls), ""],
        ["fits finished beside the polls", "", *(str(one.fits) for one in found), "", ""],
        ["submits, p50 / p99 ms", "", *(_ms(one.submits) for one in found), _ms(submits),
         _ms(sending)],
        ["submits with a key, p50 / p99 ms", "", *(_ms(one.keyed) for one in found), "", ""],
        ["submits acknowledged", "all", *(_all(one.submits, 202) for one in found),
         _all(submits, 202), ""],
        ["lost", "0", *(str(one.lost) for one in found), "", ""],
        [f"list of 50 of {JOBS:,} jobs, p50 / p99 ms", "< 50", *(_ms(one.lists) for one in found),
         "", ""],
        [f"server with {streams[0].count:,} streams, MiB", "< 300",
         *(f"{one.open_mib:.0f} (before: {one.before_mib:.0f})" for one in streams), "", ""],
        ["streams idle, % of a core", "", *(f"{one.cpu_percent:.1f}" for one in streams), "", ""],
        ["all streams told, s after the last change", "",
         *(f"{one.told_seconds:.2f}" for one in streams), "", ""],
        ["job round trip, p50 / p99 ms", "", *(_ms(one.round_trips) for one in found), "",
         _ms(whole)],
    ]  # fmt: skip


def _ms(timed: Timed) -> str:
    return f"{timed.quantile_ms(0.5):.1f} / {timed.quantile_ms(0.99):.1f}"


def _cpu(timed: Timed) -> str:
    return f"{1000 * timed.cpu_seconds / len(timed.answers):.2f}"


def _all(timed: Timed, status: int) -> str:
    return f"{timed.count(status)} of {len(timed.answers)}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
