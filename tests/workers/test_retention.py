"""What the sweep deletes, and above all what it leaves alone."""

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mixlab.errors import UnknownJob
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, Queue, RunRole
from tests.ledger.clock import FakeClock
from workers.retention import retain
from workers.settings import WorkerSettings

DAY = 86_400.0


class Home:
    """A home folder with what an old and a young job have left."""

    def __init__(self, folder: Path, ledger: Ledger, clock: FakeClock) -> None:
        self.folder, self.ledger = folder, ledger
        self.settings = WorkerSettings(home=folder, retention_days=30)
        self.corpus = ledger.add_corpus("c", {}).id
        self.old, self.failed, self.goes_on = self.ended(), self.ended(), self.submitted()
        self.proxy, self.full = self.run(self.old, RunRole.PROXY), self.run(self.old, RunRole.FULL)
        self.early = self.run(self.goes_on, RunRole.PROXY)
        for job in (self.old, self.failed, self.goes_on):
            self.write(f"logs/{job.id}.1.log", days=40)
        clock.advance(40 * DAY)
        self.young = self.ended()
        self.fresh = self.run(self.young, RunRole.PROXY)
        self.write(f"logs/{self.young.id}.1.log")

    def submitted(self) -> Job:
        return self.ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)

    def ended(self) -> Job:
        job = self.submitted()
        self.ledger.claim(job.id, "w", 30)
        self.ledger.succeed(job.id, 1, {})
        return job

    def run(self, job: Job, role: RunRole) -> Path:
        run = self.ledger.add_run(job.id, self.corpus, role, {"a": 1.0}, {}, 0, role)
        self.write(f"runs/{run.id}/checkpoints/step-7/rank-0.safetensors", days=40)
        return self.folder / "runs" / run.id

    def write(self, name: str, *, days: float = 0.0) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        then = time.time() - days * DAY
        os.utime(path, (then, then))
        return path

    def logs(self) -> set[str]:
        return {path.name.split(".")[0] for path in (self.folder / "logs").glob("job_*.log")}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    clock = FakeClock()
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'home' / 'ledger.sqlite'}", clock=clock)
    yield Home(tmp_path / "home", ledger, clock)
    ledger.close()


def test_what_is_old_and_serves_nobody_goes(home: Home) -> None:
    for _ in range(2):  # the second time there is nothing to do
        retain(home.ledger, home.settings)
        assert home.logs() == {home.goes_on.id, home.young.id}
        there = {path for path in (home.proxy, home.full, home.early, home.fresh) if path.exists()}
        assert there == {home.full, home.early, home.fresh}
        assert list(home.full.rglob("*.safetensors"))
        with pytest.raises(UnknownJob):
            home.ledger.job(home.failed.id)
        assert home.ledger.run_of_job(home.old.id) is not None


def test_zero_days_keep_everything(home: Home) -> None:
    settings = WorkerSettings(home=home.folder, retention_days=0)
    retain(home.ledger, settings)
    assert home.logs() == {job.id for job in (home.old, home.failed, home.goes_on, home.young)}
    assert home.proxy.exists()


def test_what_a_sweep_that_was_killed_has_left_goes_with_the_next(home: Home) -> None:
    home.ledger.prune(timedelta())  # the rows are gone, the files not
    retain(home.ledger, home.settings)
    assert home.failed.id not in home.logs()
    assert not home.proxy.exists()


def test_what_is_not_ours_is_left(home: Home) -> None:
    foreign = [
        home.write(name, days=400)
        for name in (
            "logs/worker-gpu.log", "logs/job_x.log", "logs/job_0a.1.log.bak", "notes.txt",
            "runs/run_0123456789abcdef01234567/weights", "runs/my run/weights",
            "corpora/corpus_1/d000/train-00000.npy", "corpora/corpus_1/.lock",
            "corpora/corpus_1/.7-x/kept",
        )
    ]  # fmt: skip
    retain(home.ledger, home.settings)
    assert [path for path in foreign if not path.exists()] == []


def test_leftovers_of_writes_that_were_cut_off_go_after_a_day(home: Home) -> None:
    names = ("corpora/corpus_1/d000/.123-train-00000.npy", "observations/.9-job_1.parquet")
    old = [home.write(name, days=2) for name in names]
    new = home.write("corpora/corpus_1/.124-manifest.json", days=0.5)
    retain(home.ledger, home.settings)
    assert [path.exists() for path in (*old, new)] == [False, False, True]


def test_signs_of_life_of_sweeps_that_are_no_more_go_after_a_day(home: Home) -> None:
    old = home.write("sweep-4f1c2a.alive", days=2)
    new = home.write("sweep-77aa01.alive", days=0.5)
    retain(home.ledger, home.settings)
    assert [old.exists(), new.exists()] == [False, True]


def test_nothing_outside_the_home_folder_is_touched(home: Home, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("log", "weights", ".1-leftover"):
        outside.mkdir(exist_ok=True)
        (outside / name).write_text("x")
        os.utime(outside / name, (0, 0))
    (log,) = (home.folder / "logs").glob(f"{home.failed.id}.*")
    log.unlink()
    log.symlink_to(outside / "log")
    (home.proxy / "checkpoints" / "linked").symlink_to(outside)
    kept = home.proxy.rename(tmp_path / "moved")
    home.proxy.symlink_to(kept)
    corpora = home.folder / "corpora"
    corpora.mkdir()
    (corpora / "linked").symlink_to(outside)
    retain(home.ledger, home.settings)
    assert {path.name for path in outside.iterdir()} == {"log", "weights", ".1-leftover"}
    assert list(kept.rglob("*.safetensors"))

    home.proxy.unlink()
    kept.rename(home.proxy)
    retain(home.ledger, home.settings)  # its links go, what they point to stays
    assert not home.proxy.exists()
    assert len(list(outside.iterdir())) == 3


def test_a_folder_that_is_a_link_is_left_alone(home: Home, tmp_path: Path) -> None:
    moved = (home.folder / "runs").rename(tmp_path / "runs")
    (home.folder / "runs").symlink_to(moved)
    retain(home.ledger, home.settings)
    assert home.proxy.exists()
