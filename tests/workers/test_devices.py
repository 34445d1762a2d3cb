"""Locks on GPUs: slots share theirs, a full-scale run has its own alone."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue
from tests.workers.conftest import until
from workers.jobs.context import JobContext, Stopped
from workers.jobs.devices import STAGE, gpus_alone, gpus_of_slot
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
