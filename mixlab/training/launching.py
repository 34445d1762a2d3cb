"""Several processes on this machine that train one spec together: torchrun, started and watched.

    python -m torch.distributed.run --standalone --nproc-per-node N -m mixlab.training SPEC.json

Asked to stop, rank 0 gets SIGTERM rather than torchrun: the ranks agree on a step, write their
checkpoint and exit with 0, where torchrun, once signalled, exits with 1 in any case. torchrun's
ranks live in sessions of their own, out of reach of a signal to ours: their standard input is a
pipe from here, and they end when it closes, however this process ended.
Limits: one host. Several hosts are started by hand, each with torchrun (docs/training.md).
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

import torch

from mixlab.training.events import Emit, Event, error_in

POLL_SECONDS = 0.2
READ_BYTES = 1 << 16
LAST = ("ended", "stopped", "error")  # events after which a run has its outcome


def visible_gpus() -> int:
    """CUDA devices that this process may use."""
    return torch.cuda.device_count()


class RanksCrashed(RuntimeError):
    """The processes ended without an outcome; another try goes on from their last checkpoint."""


def torchrun(spec: Path, processes: int, grace_seconds: float, *options: str) -> list[str]:
    """The command that trains a spec with so many processes on this machine."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), "--shutdown-timeout", str(max(1, int(grace_seconds))),
        "-m", "mixlab.training", str(spec), *options,
    ]  # fmt: skip


class Ranks:
    """The processes of a run. As a context manager it leaves none of them behind."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int, folder: Path) -> None:
        self.process = process
        self._pipe, self._folder = pipe, folder
        self._pids: dict[int, int] = {}
        self._rest = b""

    @classmethod
    def start(
        cls,
        spec: Path,
        processes: int,
        *,
        grace_seconds: float,
        threads: int | None = None,
        output: IO[bytes] | None = None,
        own_session: bool = False,
    ) -> Self:
        """Start them; `output` gets what they print, else our own streams do.

        `grace_seconds` is what torchrun leaves them for a checkpoint where it is signalled
        itself. In a session of its own it does not see the terminal's Ctrl-C.
        """
        folder = Path(tempfile.mkdtemp(prefix="mixlab-"))
        os.mkfifo(folder / "events", 0o600)
        # Open for writing too, so that it has no end while no rank has opened it.
        pipe = os.open(folder / "events", os.O_RDWR | os.O_NONBLOCK)
        options = ("--events", str(folder / "events"), "--end-with-stdin")
        process = subprocess.Popen(
            torchrun(spec, processes, grace_seconds, *options),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
            start_new_session=own_session,
        )
        return cls(process, pipe, folder)

    def watch(self, emit: Emit, stop: Callable[[], bool]) -> Event:
        """Hand on events until all have ended; the last of them, "ended" or "stopped".

        Once `stop` says so they make a checkpoint and stop. Raises the MixlabError that a rank
        met, and RanksCrashed where they ended without an outcome.
        """
        asked, outcome, crash = False, None, ""
        for event in self._events():
            if not asked and stop():
                asked = True
                self.stop()
            if event is None:
                continue
            if event["event"] == "crashed":
                crash = crash or f" Rank {event['rank']} met {event['detail']}"
            outcome = event if event["event"] in LAST else outcome
            emit(event)
        if outcome is not None and outcome["event"] == "error":
            raise error_in(outcome)
        if outcome is None and not asked:
            raise RanksCrashed(
                f"The training processes ended with exit code {self.process.returncode} and no "
                f"outcome.{crash}"
            )
        return outcome or {"event": "stopped"}

    def stop(self) -> None:
        """Ask for a checkpoint and the end."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self._pids.get(0, self.process.pid), signal.SIGTERM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs. A rank that has not said its number ends with its input."""
        if self.process.poll() is None:
            self.process.kill()
            for pid in self._pids.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
        os.close(self._pipe)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _events(self) -> Iterator[Event | None]:
        """What the ranks say as they say it; None now and then, to look at other things."""
        while True:
            ended = self.process.poll() is not None  # before the last look at the pipe
            found = list(self._read())
            yield from found
            if ended and not found:
                return
            yield None

    def _read(self) -> Iterator[Event]:
        if not select.select([self._pipe], [], [], POLL_SECONDS)[0]:
            return
        *lines, self._rest = (self._rest + os.read(self._pipe, READ_BYTES)).split(b"\n")
        for line in lines:
            event: Event = json.loads(line)
            if event["event"] == "started":
                self._pids[int(event["rank"])] = int(event["pid"])
            yield event
