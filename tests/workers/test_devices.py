"""Processes and GPUs of a job: slots share theirs, a run in several processes has its own."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue
from mixlab.recipes import Recipe, proxy_smoke, tinyllama_1b
from tests.workers.conftest import until
from workers.jobs.context import JobContext, Stopped
from workers.jobs.devices import STAGE, gpus_alone, gpus_of_slot, processes_of
from workers.settings import WorkerSettings


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture
def context(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobContext:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return context_of(ledger, tmp_path, 4)


def context_of(ledger: Ledger, home: Path, gpus: int) -> JobContext:
    job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    claimed = ledger.claim(job.id, "w", 60)
    assert claimed is not None
    return JobContext(claimed, ledger, WorkerSettings(home=home, gpus=gpus))


def never() -> bool:
    return False


def at_once() -> bool:
    return True


def test_slots_share_a_gpu_and_a_full_scale_run_does_not(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as slots:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
        for _ in range(2):
            slots.enter_context(gpus_of_slot(context, at_once))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        with gpus_alone(context, 2, at_once):  # 0 and 1: nobody is there
            with pytest.raises(Stopped), gpus_alone(context, 1, at_once):
                pass
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
            with pytest.raises(Stopped), gpus_of_slot(context, at_once):
                pass
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        with pytest.raises(Stopped), gpus_alone(context, 3, at_once):
            pass
    assert context.ledger.job(context.job.id).stage == STAGE
    with gpus_alone(context, 4, at_once):
        pass


def test_whoever_waits_goes_on_once_the_gpu_is_free(context: JobContext) -> None:
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with gpus_alone(context, 4, never):
            held.set()
            free.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(20)

    def released_once_waited_for() -> None:
        until(lambda: context.ledger.job(context.job.id).stage == STAGE)
        free.set()

    watcher = threading.Thread(target=released_once_waited_for)
    watcher.start()
    with gpus_of_slot(context, never):
        assert free.is_set()
    other.join()
    watcher.join()


def test_without_gpus_nobody_waits(ledger: Ledger, tmp_path: Path) -> None:
    context = context_of(ledger, tmp_path, 0)
    with gpus_alone(context, 1, at_once), gpus_alone(context, 1, at_once):
        assert os.listdir(tmp_path / "gpus") == []


@pytest.mark.parametrize(
    ("role", "recipe", "told", "gpus", "expected"),
    [
        ("proxy", tinyllama_1b(), 8, 8, 1),
        ("full", tinyllama_1b(), None, 0, 1),
        ("full", tinyllama_1b(), None, 8, 8),
        ("full", tinyllama_1b(), 2, 8, 2),
        ("full", proxy_smoke(), None, 8, 1),  # 512 tokens a step
        ("full", proxy_smoke(), 3, 0, 3),
        ("full", proxy_smoke(), 99, 0, 8),  # each needs a sequence
        ("full", replace(proxy_smoke(), batch_stages=((9, 4),)), 99, 0, 4),
    ],
)
def test_a_full_scale_run_has_a_process_per_gpu_as_far_as_its_steps_have_tokens(
    ledger: Ledger, role: str, recipe: Recipe, told: int | None, gpus: int, expected: int
) -> None:
    payload = {"role": role, "recipe": recipe.to_dict()}
    job = ledger.submit(JobKind.TRAIN, payload, queue=Queue.GPU)
    settings = WorkerSettings(training_processes=told, gpus=gpus)
    assert processes_of(job, settings) == expected
