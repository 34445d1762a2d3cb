"""What stands beside the service: a FastAPI route that does nothing, and a Celery task likewise.

    python -m uvicorn benchmarks.api.peers:app
    python -m celery -A benchmarks.api.peers:celery worker

The route answers with the bytes of a job's view; the task adds two numbers.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery
from fastapi import FastAPI, Response

from benchmarks.api.load import Timed
from cli.broker import Broker, free_port

SAME_BYTES = b'{"id": "job_0199f2c4", "padding": "%s"}' % (b"x" * 900)
BROKER = os.environ.get("BENCHMARK_BROKER_URL", "redis://127.0.0.1:1/0")

app = FastAPI()


@app.get("/jobs/{job_id}")
async def job(job_id: str) -> Response:
    """As many bytes as a job's view has."""
    return Response(SAME_BYTES, media_type="application/json")


@app.post("/jobs", status_code=202)
async def submit(body: dict[str, Any]) -> dict[str, Any]:
    """What came, without recording it."""
    return body


celery = Celery("peers", broker=BROKER, backend=BROKER)
celery.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


@celery.task
def add(one: int, other: int) -> int:
    """The least that a task can do."""
    return one + other


@contextmanager
def bare_route() -> Iterator[tuple[str, int]]:
    """A server with the bare routes; gives its URL and its process."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.api.peers:app", "--port", str(port)]
    with subprocess.Popen([*command, "--no-access-log", "--http", "h11"]) as process:
        time.sleep(3)
        try:
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


def round_trips(count: int) -> tuple[Timed, Timed, Timed]:
    """Bare Celery, one after the other: sending, asking for the state, from sending to the result.

    On a broker of its own, with a worker of one process.
    """
    with tempfile.TemporaryDirectory() as home:
        broker = Broker.prepare(Path(home) / "broker")
        url = broker.url_file.read_text().strip()
        environment = os.environ | {"BENCHMARK_BROKER_URL": url}
        worker = [
            sys.executable, "-m", "celery", "-A", "benchmarks.api.peers:celery",
            "worker", "-c", "1",
        ]  # fmt: skip
        with (
            subprocess.Popen(broker.command) as server,
            (Path(home) / "worker.log").open("wb") as log,
            subprocess.Popen(worker, env=environment, stdout=log, stderr=log) as working,
        ):
            try:
                time.sleep(1)
                return _timed(url, count)
            finally:
                working.terminate()
                working.wait()
                server.terminate()


def _timed(url: str, count: int) -> tuple[Timed, Timed, Timed]:
    here = Celery("client", broker=url, backend=url, set_as_current=False)
    here.send_task(add.name, (1, 1)).get(timeout=60)  # the worker is up
    sending, asking, whole = Timed(), Timed(), Timed()
    for number in range(count):
        began = time.perf_counter()
        result = here.send_task(add.name, (number, 1))
        sending.seconds.append(time.perf_counter() - began)
        assert result.get(timeout=60, interval=0.001) == number + 1
        whole.seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        assert here.AsyncResult(result.id).state == "SUCCESS"
        asking.seconds.append(time.perf_counter() - began)
    return sending, asking, whole
