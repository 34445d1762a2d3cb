"""The real service to be measured, at work: fits of a law follow each other on its cpu worker."""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from cli.up import Stack
from mixlab.ledger import Ledger
from tests.ledger.postgres import cluster

DOMAINS = ("code", "legal", "talk", "web")


@dataclass
class Service:
    """A running service, and its ledger as a worker has it."""

    url: str
    process_id: int  # of the API
    ledger: Ledger
    texts: dict[str, Path]  # short ones that a corpus may be made of, by domain
    fits: int = 0  # how many have come to their end


@contextmanager
def service(database: str) -> Iterator[Service]:
    """Broker, API, workers, sweep on `sqlite` or `postgresql`, on free ports."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{home / 'ledger.sqlite'}"
        if database == "postgresql":
            url = stack.enter_context(cluster())
        before = dict(os.environ)
        stack.callback(lambda: (os.environ.clear(), os.environ.update(before)))
        os.environ["MIXLAB_DATABASE_URL"] = url
        running = stack.enter_context(Stack(home, data_roots=[home], cpu_workers=1, gpu_workers=1))
        ledger = Ledger.open(url)
        stack.callback(ledger.close)
        yield Service(running.base_url, _api_process(), ledger, _texts(home))


def _texts(home: Path) -> dict[str, Path]:
    found = {}
    for name in DOMAINS[:2]:
        lines = [json.dumps({"text": f"Words about {name} number {n}. " * 5}) for n in range(200)]
        found[name] = home / f"{name}.jsonl"
        found[name].write_text("\n".join(lines))
    return found


@contextmanager
def working(service: Service) -> Iterator[None]:
    """Keep one fit after another running on the service's worker meanwhile."""
    over = threading.Event()
    busy = threading.Thread(target=_work, args=(service, over))
    busy.start()
    try:
        yield
    finally:
        over.set()
        busy.join()


def _work(service: Service, over: threading.Event) -> None:
    body = {"observations": _table(), "budget_tokens": 10**10, "replicates": 500}
    with httpx.Client(base_url=service.url, trust_env=False, timeout=70) as client:
        while not over.is_set():
            job = client.post("/mixtures/fit", json=body).raise_for_status().json()
            while not over.wait(0.2):
                now = client.get(f"/jobs/{job['id']}").json()
                if now["finished_at"]:
                    assert now["state"] == "succeeded", now["error"]
                    service.fits += 1
                    break
        client.post(f"/jobs/{job['id']}/cancel")


def _table() -> list[dict[str, Any]]:
    """Losses of 24 made-up runs at five steps."""
    rng = np.random.default_rng(5)
    rows = []
    for run, shares in enumerate(rng.dirichlet(np.full(len(DOMAINS), 3.0), size=24)):
        for step in (100, 200, 400, 800, 1600):
            row: dict[str, Any] = {"run": f"r{run}", "step": step, "tokens": 4096 * step}
            for place, (name, share) in enumerate(zip(DOMAINS, shares, strict=True)):
                loss = share**-0.1 * (6.0 * step**-0.4 + 1.5 + 0.2 * place)
                row[f"mixture.{name}"] = float(share)
                row[f"loss.{name}"] = float(loss * np.exp(0.003 * rng.standard_normal()))
            rows.append(row)
    return rows


def _api_process() -> int:
    listed = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return next(int(line.split()[0]) for line in listed.splitlines() if line.endswith("-m api"))
