"""Jobs of several kinds, submitted while things break, each until it is acknowledged."""

import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

from benchmarks.faults.cluster import Cluster
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue

CHILDREN = 3
# Of a hundred jobs; the rest are acts of work.
FITS, FAMILIES, TRAININGS = 8, 4, 1
DOMAINS = ("code", "law")


@dataclass
class Submitted:
    """What was acknowledged: ids by kind."""

    work: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    fits: list[str] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Every job that somebody asked for."""
        return [*self.work, *self.families, *self.fits, *self.trainings]


class Load(threading.Thread):
    """Submits so many jobs, evenly over so many seconds, then ends."""

    def __init__(self, cluster: Cluster, count: int, seconds: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.cluster, self.count, self.seconds = cluster, count, seconds
        self.done = Submitted()
        self.error: BaseException | None = None
        self._chance = Random(seed)
        self._ledger = Ledger.open(cluster.database_url, migrate=False, patience_seconds=120)
        # The service may well be away: what isn't acknowledged is asked for again.
        self._http = httpx.Client(base_url=cluster.url, timeout=20, trust_env=False)

    def run(self) -> None:
        """Submit everything; `error` says why not."""
        try:
            self._run()
        except BaseException as problem:  # noqa: BLE001  told by the main thread
            self.error = problem
        finally:
            self._http.close()
            self._ledger.close()

    def _run(self) -> None:
        corpus = self._corpus() if self.count >= 100 else None
        began = time.monotonic()
        for number in range(self.count):
            ahead = began + self.seconds * number / self.count - time.monotonic()
            time.sleep(max(0.0, ahead))
            self._submit(number, corpus)

    def _submit(self, number: int, corpus: str | None) -> None:
        place = 37 * number % 100  # every kind soon, in any number of jobs
        if place < FITS:
            self.done.fits.append(self._asked("/mixtures/fit", fit(number))["id"])
        elif place < FITS + FAMILIES:
            children = [self._work() for _ in range(CHILDREN)]
            payload = {"act": "family", "children": children}
            self.done.families.append(self._put(number, JobKind.FIT_MIXTURE, payload, Queue.CPU))
        elif place < FITS + FAMILIES + TRAININGS and corpus is not None:
            self.done.trainings.append(self._asked("/trainings", training(corpus, number))["id"])
        else:
            self.done.work.append(self._put(number, JobKind.TRAIN, self._work(), Queue.GPU))

    def _work(self) -> dict[str, Any]:
        return {"act": "work", "seconds": self._chance.uniform(0.1, 1.5)}

    def _put(self, number: int, kind: JobKind, payload: dict[str, Any], queue: Queue) -> str:
        return self._ledger.submit(kind, payload, queue=queue, key=f"load-{number}").id

    def _asked(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask over HTTP, with one Idempotency-Key, until there is an answer."""
        key, deadline = str(uuid.uuid4()), time.monotonic() + 180
        while True:
            try:
                answer = self._http.post(path, json=body, headers={"Idempotency-Key": key})
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.is_success:
                found: dict[str, Any] = answer.json()
                return found
            if answer is not None and answer.status_code in (400, 404, 422):
                raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:500]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path}: {answer and answer.text}")
            time.sleep(0.5)

    def _corpus(self) -> str:
        folder = self.cluster.home / "texts"
        folder.mkdir(exist_ok=True)
        domains = {name: {"paths": [str(_text(folder, name))]} for name in DOMAINS}
        made = self._asked("/corpora", {"name": "faults", "domains": domains, "vocabulary": 512})
        return str(made.get("corpus_id") or made["id"])


def fit(number: int) -> dict[str, Any]:
    """A fit of a small table, another one each time."""
    rows = []
    for run in range(8):
        share = 0.1 + 0.1 * run
        for step in (100, 200, 400):
            nats = {
                "code": (3.0 / step**0.2 + 2.0) * share**-0.1 + number * 1e-5,
                "law": (4.0 / step**0.2 + 2.2) * (1 - share) ** -0.1,
            }
            row = {"run": f"r{run}", "step": step, "tokens": step * 1024}
            shares = {"mixture.code": share, "mixture.law": 1 - share}
            rows.append(row | shares | {f"loss.{name}": loss for name, loss in nats.items()})
    return {"observations": rows, "law": "bimix", "budget_tokens": 1_000_000, "replicates": 0}


def training(corpus: str, number: int) -> dict[str, Any]:
    """A real training run of seconds."""
    shares = {"code": 0.5, "law": 0.5}
    return {"corpus_id": corpus, "proportions": shares, "recipe": "proxy_smoke", "seed": number}


def _text(folder: Path, name: str) -> Path:
    chance, path = Random(name), folder / f"{name}.jsonl"
    words = [f"{name}{chance.randrange(400)}" for _ in range(60_000)]
    lines = (" ".join(words[n : n + 60]) for n in range(0, len(words), 60))
    path.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    return path
