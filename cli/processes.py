"""Child processes that are kept running: each in its own session, with a log, started again
when it ends by itself, and never outliving this process (watchdog.py)."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a child that ran so long starts again without a pause

Say = Callable[[str], None]


@dataclass
class Child:
    """One command to keep running."""

    name: str
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    quick_ends: int = 0
    restart_at: float | None = None


class Processes:
    """A set of children. `say` is told when one ends that should not have."""

    def __init__(self, logs: Path, environment: Mapping[str, str], say: Say) -> None:
        self._logs = logs
        self._environment = dict(environment)
        self._say = say
        self._children: list[Child] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "cli.watchdog"], stdin=subprocess.PIPE, start_new_session=True
        )
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a command and keep it running; its output goes to its log."""
        log = self._logs / f"{name}.log"
        with self._lock:
            child = Child(name, command, log, self._spawn(command, log))
            self._children.append(child)
        return child

    def stop(self, names: Sequence[str] | None = None, patience_seconds: float = 8.0) -> None:
        """Stop the named children, or all; each gets SIGTERM, and SIGKILL if it stays."""
        with self._lock:
            chosen = [c for c in self._children if names is None or c.name in names]
            self._children = [c for c in self._children if c not in chosen]
        for child in chosen:
            _signal(child, signal.SIGTERM)
        deadline = time.monotonic() + patience_seconds
        for child in chosen:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            _signal(child, signal.SIGKILL)  # also for what it left in its session
            child.process.wait()
            self._tell_watchdog("-", child.process.pid)

    def close(self) -> None:
        """Stop all, and the watchdog with them."""
        self._stopping.set()
        self._keeper.join()
        self.stop()
        if self._watchdog.stdin is not None:
            with suppress(BrokenPipeError):
                self._watchdog.stdin.close()
        self._watchdog.wait()

    def _spawn(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops all
            )
        self._tell_watchdog("+", process.pid)
        return process

    def _tell_watchdog(self, change: str, group: int) -> None:
        if self._watchdog.stdin is not None:
            with suppress(BrokenPipeError):
                self._watchdog.stdin.write(f"{change}{group}\n".encode())
                self._watchdog.stdin.flush()

    def _keep(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            with self._lock:
                for child in self._children:
                    if child.process.poll() is not None:
                        self._bring_back(child, time.monotonic())

    def _bring_back(self, child: Child, now: float) -> None:
        if child.restart_at is None:
            steady = now - child.started > STEADY_SECONDS
            child.quick_ends = 0 if steady else child.quick_ends + 1
            pause = 0.0 if steady else min(2.0 ** (child.quick_ends - 1), LONGEST_PAUSE_SECONDS)
            child.restart_at = now + pause
            with suppress(OSError):  # a closed terminal must not end the keeping
                self._say(
                    f"{child.name} ended with {child.process.returncode}; starting it again in "
                    f"{pause:g} s. Its log: {child.log}"
                )
        elif now >= child.restart_at:
            _signal(child, signal.SIGKILL)  # what it left in its session
            self._tell_watchdog("-", child.process.pid)
            try:
                child.process = self._spawn(child.command, child.log)
            except OSError:  # no process or file left just now
                child.restart_at = now + LONGEST_PAUSE_SECONDS
            else:
                child.started, child.restart_at = now, None


def _signal(child: Child, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, number)
