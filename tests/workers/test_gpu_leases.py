"""No GPU is ever held twice, whoever dies; and whoever came first is served first."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from fcntl import F_GETFL, LOCK_EX, fcntl, flock
from pathlib import Path

import pytest

from tests.workers.conftest import until
from workers import gpu_leases
from workers.gpu_leases import GpuLease

GPUS = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]

# A process that takes GPUs again and again, and writes down when it had which.
HOLDER = """
import json, os, sys, time
from pathlib import Path
from workers.gpu_leases import GpuLease
folder, names, count, seconds, rounds = (json.loads(each) for each in sys.argv[1:6])
log = os.open(sys.argv[6], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def say(*what):
    os.write(log, (json.dumps([time.monotonic(), os.getpid(), *what]) + "\\n").encode())
say("asks", [])
for _ in range(rounds):
    with GpuLease(Path(folder), names, count) as lease:
        while not lease.take():
            time.sleep(0.005)
        say("has", lease.held)
        time.sleep(seconds)
        say("gives", lease.held)
"""


class Holders:
    """Processes that share GPUs through a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "gpus"
        self.log = folder / "log"
        self.log.touch()
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int, *, seconds: float, rounds: int = 1) -> subprocess.Popen[bytes]:
        told = [str(self.folder), GPUS, count, seconds, rounds]
        arguments = [json.dumps(each) for each in told] + [str(self.log)]
        self.processes.append(subprocess.Popen([sys.executable, "-c", HOLDER, *arguments]))
        return self.processes[-1]

    def said(self, what: str, by: subprocess.Popen[bytes] | None = None) -> list[list[str]]:
        """The GPUs of each time that somebody, or one of them, said so."""
        pids = {by.pid} if by else {one.pid for one in self.processes}
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [gpus for _, pid, said, gpus in lines if said == what and pid in pids]


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[Holders]:
    made = Holders(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def lease(folder: Path, count: int = 1, names: list[str] = GPUS) -> GpuLease:
    return GpuLease(folder, names, count)


class TestInOneProcess:
    def test_each_has_its_own_until_there_are_none(self, tmp_path: Path) -> None:
        with ExitStack() as all_of_them:
            held = [all_of_them.enter_context(lease(tmp_path)) for _ in range(5)]
            assert [one.take() for one in held] == [True, True, True, True, False]
            assert [one.held for one in held] == [
                ("GPU-a",),
                ("GPU-b",),
                ("GPU-c",),
                ("GPU-d",),
                (),
            ]
            held[2].__exit__()
            assert held[4].take()
            assert held[4].held == ("GPU-c",)
            assert held[4].take()  # and again

    def test_who_needs_several_is_served_in_turn(self, tmp_path: Path) -> None:
        first, wide, late = lease(tmp_path), lease(tmp_path, 4), lease(tmp_path)
        with first, wide, late:
            assert first.take()
            assert not wide.take()
            assert wide.held == ("GPU-b", "GPU-c", "GPU-d")  # what is free is kept for it
            assert not late.take()
            first.__exit__()
            assert not late.take()  # it came later
            assert wide.take()
            wide.__exit__()
            assert late.take()

    def test_nobody_waits_for_who_needs_other_gpus(self, tmp_path: Path) -> None:
        here, there = ["GPU-a", "GPU-b"], ["GPU-c", "GPU-d"]
        with lease(tmp_path, 1, here) as holder, lease(tmp_path, 2, here) as waits:
            assert holder.take()
            assert not waits.take()
            with lease(tmp_path, 2, there) as other:
                assert other.take()

    def test_who_asks_for_more_than_there_are_gets_all(self, tmp_path: Path) -> None:
        with lease(tmp_path, 9) as all_of_them:
            assert all_of_them.take()
            assert all_of_them.held == tuple(GPUS)

    def test_without_gpus_nobody_waits_and_nothing_is_written(self, tmp_path: Path) -> None:
        with lease(tmp_path / "home", 1, []) as none:
            assert none.take()
            assert none.held == none.descriptors == ()
        assert not (tmp_path / "home").exists()

    def test_who_gives_up_leaves_the_line(self, tmp_path: Path) -> None:
        with lease(tmp_path, 3) as most, lease(tmp_path) as last:
            most.take()
            with lease(tmp_path, 4) as waits:
                assert not waits.take()
                assert not last.take()
            assert last.take()
        assert list((tmp_path / "line").iterdir()) == []

    def test_who_is_halted_in_the_line_is_passed_over_and_comes_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gpu_leases, "SILENT_SECONDS", 0.3)
        with lease(tmp_path) as holder, lease(tmp_path, 4) as halted, lease(tmp_path) as late:
            holder.take()
            assert not halted.take()
            halted._let_go()  # as one that was halted before it took any
            time.sleep(0.4)
            assert late.take()
            assert not halted.take()
            late.__exit__()
            holder.__exit__()
            assert halted.take()

    def test_who_is_halted_while_gathering_does_not_keep_what_the_next_one_waits_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As while the database was away: else each would wait for the other for ever."""
        monkeypatch.setattr(gpu_leases, "SILENT_SECONDS", 0.3)
        with lease(tmp_path) as holder, lease(tmp_path, 4) as halted, lease(tmp_path, 4) as late:
            assert holder.take()
            assert not halted.take()
            assert halted.held == ("GPU-b", "GPU-c", "GPU-d")
            time.sleep(0.4)
            assert not late.take()
            holder.__exit__()
            assert [halted.take(), late.take()] == [False, True]
            late.__exit__()
            assert halted.take()

    def test_who_stands_in_the_line_stays_there_whatever_this_hosts_clock_says(
        self, tmp_path: Path
    ) -> None:
        """The folder's times may be those of another host, such as an NFS server."""
        with lease(tmp_path) as holder, lease(tmp_path, 4) as first, lease(tmp_path) as late:
            holder.take()
            first.take()
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(time, "time", lambda now=time.time: now() + 3600)
                assert not late.take()
            assert len(list((tmp_path / "line").iterdir())) == 2

    def test_locks_are_taken_as_nfs_gives_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There an exclusive lock needs a file that may be written, a shared one that is read."""

        def of_nfs(descriptor: int, how: int) -> None:
            access = fcntl(descriptor, F_GETFL) & os.O_ACCMODE
            refused = os.O_RDONLY if how & LOCK_EX else os.O_WRONLY
            if access == refused:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            flock(descriptor, how)

        monkeypatch.setattr("fcntl.flock", of_nfs)
        with lease(tmp_path, 4) as holder, lease(tmp_path) as first, lease(tmp_path) as late:
            assert [holder.take(), first.take(), late.take()] == [True, False, False]
            assert gpu_leases.taken(tmp_path, GPUS) == set(GPUS)
            holder.__exit__()
            assert [late.take(), first.take(), late.take()] == [False, True, True]


def test_many_processes_that_are_killed_at_any_moment_never_share_a_gpu(holders: Holders) -> None:
    """Each round of a holder is an interval; intervals of one GPU must not overlap."""
    chance, killed_at = random.Random(5), {}
    for count in (1, 1, 1, 2, 4):
        holders.start(count, seconds=0.01, rounds=10_000)
    until(lambda: len(holders.said("has")) > 20)
    for _ in range(12):
        victim = chance.choice([one for one in holders.processes if one.poll() is None])
        killed_at[victim.pid] = time.monotonic()
        victim.kill()
        victim.wait()
        holders.start(chance.choice([1, 1, 2, 3]), seconds=0.01, rounds=10_000)
        time.sleep(chance.uniform(0.05, 0.2))
    until(lambda: len(holders.said("has")) > 100)
    holding: dict[str, int] = {}
    for line in holders.log.read_text().splitlines():
        at, pid, said, gpus = json.loads(line)
        for gpu in gpus:
            holder = holding.get(gpu)
            if said == "has":
                assert holder is None or killed_at[holder] <= at
                holding[gpu] = pid
            else:
                assert holding.pop(gpu) == pid


def test_a_killed_holder_frees_its_gpus_at_once(holders: Holders) -> None:
    killed = holders.start(4, seconds=600)
    until(lambda: holders.said("has", killed))
    waits = holders.start(2, seconds=0.0)
    until(lambda: holders.said("asks", waits))
    killed.send_signal(signal.SIGKILL)
    began = time.monotonic()
    until(lambda: holders.said("has", waits), 5)
    assert time.monotonic() - began < 1.0


def test_a_run_that_needs_all_is_not_starved_by_a_stream_of_others(holders: Holders) -> None:
    for _ in range(6):  # more than there are GPUs
        holders.start(1, seconds=0.05, rounds=10_000)
    until(lambda: len(holders.said("has")) > 20)
    wide = holders.start(4, seconds=0.0)
    until(lambda: holders.said("asks", wide))
    before = len(holders.said("has"))
    until(lambda: holders.said("has", wide), 20)
    # All that held one may end first, and who stood in the line before.
    assert len(holders.said("has")) - before < 60


def test_a_process_that_inherits_the_locks_holds_the_gpus_too(tmp_path: Path) -> None:
    """As a runner does whose supervisor was killed: its GPU is free once both have ended."""
    folder = tmp_path / "gpus"
    with lease(folder, 4) as held:
        assert held.take()
        runner = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE, pass_fds=held.descriptors,
        )  # fmt: skip
    with lease(folder) as other:
        assert not other.take()
        assert runner.stdin is not None
        runner.stdin.close()
        runner.wait()
        assert other.take()
