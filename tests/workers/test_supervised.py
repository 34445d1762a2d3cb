"""A full-scale run in two processes under the real worker: a rank lost, stopped, killed, cancelled.

torchrun puts each of its processes into a session of its own, out of reach of the worker's
signals; none of them may outlive its job.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cli.up import Stack
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue, Run
from tests.training.conftest import small_recipe, write_small_corpus
from tests.workers.conftest import Service, alive, open_ledger, parent_of, processes, until
from workers.contract import SharedSettings

pytestmark = [pytest.mark.service, pytest.mark.slow]

MIXTURE = {"counting": 0.5, "noise": 0.5}
STEPS = 100_000  # far more than the test waits for
TOLD = {
    "MIXLAB_TRAINING_PROCESSES": "2",
    "MIXLAB_POLL_SECONDS": "0.2",
    "MIXLAB_SWEEP_SECONDS": "0.5",
    "MIXLAB_THREADS": "1",
}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    before = dict(os.environ)
    os.environ.update(TOLD)
    try:
        with Stack(tmp_path, cpu_workers=1, gpu_workers=1) as stack:
            ledger = open_ledger(tmp_path)
            yield Service(tmp_path, ledger, stack=stack)
            ledger.close()
    finally:
        os.environ.clear()
        os.environ.update(before)


def submitted(service: Service) -> Job:
    ledger = service.ledger
    corpus = ledger.add_corpus("small", {"domains": {name: {} for name in MIXTURE}})
    tokenised = write_small_corpus(SharedSettings(home=service.home).corpus_folder(corpus.id))
    ledger.record_tokens(corpus.id, tokenised.summary())
    ledger.record_entropy(corpus.id, {})
    recipe = replace(small_recipe(STEPS), evaluation_steps=(10, STEPS))
    payload = {
        "corpus_id": corpus.id, "mixture": MIXTURE, "mixture_id": None, "seed": 5,
        "recipe": recipe.to_dict(), "role": "full", "label": "wide",
    }  # fmt: skip
    return ledger.submit(JobKind.TRAIN, payload, queue=Queue.GPU)


def trainers(home: Path) -> dict[int, str]:
    """The processes of runs: torchrun and its ranks."""
    return processes(f"mixlab.training {home}")


def training(service: Service, job: Job, attempt: int) -> list[int]:
    """Wait until that attempt trains; its ranks."""

    def trains() -> bool:
        now = service.ledger.job(job.id)
        assert not now.state.terminal, now.error
        return now.attempt == attempt and now.stage == "train"

    until(trains, 100)
    ranks = [p for p, line in trainers(service.home).items() if "torch.distributed" not in line]
    assert len(ranks) == 2
    return ranks


def run_of(ledger: Ledger, job: Job) -> Run:
    run = ledger.run_of_job(job.id)
    assert run is not None
    return run


@pytest.mark.timeout(400)
def test_whatever_ends_a_run_in_two_processes_it_goes_on_and_leaves_none_behind(
    service: Service,
) -> None:
    job = submitted(service)
    first = training(service, job, attempt=1)
    os.kill(first[-1], signal.SIGKILL)  # one rank, as the kernel does when memory is short
    second = training(service, job, attempt=2)
    assert service.ledger.job(job.id).failures == 1
    log = (service.home / "logs" / f"{job.id}.1.log").read_text()
    assert "The training processes ended with exit code 1" in log
    assert not any(alive(pid) for pid in first)

    kept = SharedSettings(home=service.home).run_folder(run_of(service.ledger, job).id)
    assert not list(kept.glob("checkpoints/step-*"))  # the first is due after half a minute
    os.kill(parent_of(service.slot(job)), signal.SIGTERM)  # the worker
    third = training(service, job, attempt=3)
    (made,) = kept.glob("checkpoints/step-*")
    assert not any(alive(pid) for pid in second)
    now = service.ledger.job(job.id)
    assert now.failures == 1
    assert now.fraction * STEPS > int(made.name.removeprefix("step-")) > 0
    assert [seen["step"] for seen in run_of(service.ledger, job).observations] == [10]

    (runner,) = service.runners(job)
    os.kill(runner, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in third), 10)
    service.ledger.request_cancel(job.id)  # queued, or in an attempt that is just starting
    assert service.ended(job, 20).state is JobState.CANCELLED
    until(lambda: not trainers(service.home), 60)
