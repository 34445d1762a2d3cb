"""What the fuzzed service holds: things with ids that requests can name, and work that goes on."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlab.errors import LeaseLost, MixlabError
from mixlab.fitting import fit
from mixlab.laws import BIMIX
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue, RunRole, Scope
from mixlab.tables import from_rows, write_table

DOMAINS = ("a", "b")
SHARES = {"a": 0.25, "b": 0.75}
ROWS: list[dict[str, Any]] = [
    {
        "run": f"r{share}", "step": step, "tokens": 64 * step,
        "mixture.a": share, "mixture.b": 1 - share, "loss.a": 4 - share, "loss.b": 3 + share,
    }
    for share in (0.125, 0.25, 0.5, 0.75)
    for step in (100, 200, 300)
]  # fmt: skip


@dataclass(frozen=True)
class World:
    """Ids and paths that exist, and a key to ask with."""

    token: str
    words: dict[str, list[str] | list[int]]  # by the name of what they are


def make(ledger: Ledger, folder: Path) -> World:
    """Fill a ledger with a few of everything."""
    text = folder / "text.txt"
    text.write_text("text")
    domains = {name: {"paths": [str(text)], "text_field": "text"} for name in DOMAINS}
    corpora = [ledger.add_corpus(name, {"domains": domains}) for name in ("plain", "measured")]
    ledger.record_tokens(corpora[1].id, {name: {"train_tokens": 10**9} for name in DOMAINS})
    seen = folder / "seen.csv"
    write_table(from_rows(ROWS), seen)
    problem = {
        "objective": {"weights": None}, "constraints": {}, "budget_tokens": 10**6,
        "tokens_per_step": 64, "tokens_available": None, "observations_file": str(seen),
    }  # fmt: skip
    fitted = ledger.add_mixture(
        corpora[1].id, None, None, SHARES, fit(BIMIX, from_rows(ROWS)).to_dict(), problem
    )
    given = ledger.add_mixture(corpora[0].id, None, None, SHARES, None, {})
    jobs = [ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU) for _ in range(4)]
    run = ledger.add_run(jobs[0].id, corpora[0].id, RunRole.FULL, SHARES, {}, 0, "full")
    parent = ledger.submit(JobKind.FIT_MIXTURE, {}, queue=Queue.CPU)
    for key in "abc":
        ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU, parent_id=parent.id, key=key)
    _, token = ledger.keys.create("fuzz", (Scope.ADMIN,), max_active_jobs=10**6)
    words: dict[str, list[str] | list[int]] = {
        "seconds": [0, 1],
        "jobs": [job.id for job in (*jobs, parent)],
        "corpora": [corpus.id for corpus in corpora],
        "mixtures": [fitted.id, given.id],
        "trainings": [run.id, jobs[0].id],
        "paths": [str(text), str(folder)],
        "recipes": ["proxy_tiny", "target_small"],
        "laws": ["auto", "bimix", "exponential"],
    }
    return World(token, words)


@contextmanager
def going_on(ledger: Ledger, home: Path) -> Iterator[None]:
    """Workers' side of the ledger meanwhile: jobs of every state, logs, events."""
    over = threading.Event()

    def work() -> None:
        rng = random.Random(7)
        while not over.wait(0.05):
            with suppress(MixlabError):
                _do_something(ledger, home, rng)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def _do_something(ledger: Ledger, home: Path, rng: random.Random) -> None:
    due = ledger.due(rng.choice(list(Queue)))
    job = ledger.claim(due, "fuzz:1", 60) if due else None
    if job is None:
        return
    log = home / "logs" / f"{job.id}.{job.attempt}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_bytes(rng.randbytes(300) + "é€".encode() * 20)
    for fraction in (0.1, 0.5):
        ledger.progress(job.id, job.attempt, stage="work", fraction=fraction, eta_seconds=1.0)
    end = rng.randrange(4)
    with suppress(LeaseLost):
        if end == 0:
            ledger.fail(job.id, job.attempt, {"type": "x", "title": "t", "detail": "d"})
        elif end == 1:
            ledger.give_back(job.id, job.attempt, "again", 3)
        elif end == 2:
            ledger.succeed(job.id, job.attempt, {"href": "/mixtures/mix_none"})
        # else it seems to go on
