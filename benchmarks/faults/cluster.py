"""The service as processes of its own, kept running as a container's host would keep it.

    broker, database, API, a worker of each queue, sweep

Whatever ends is started again half a second later, unless it is held down.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cli.broker import Broker, free_port
from cli.up import worker
from mixlab.ledger import Ledger
from mixlab.ledger.records import Queue
from tests.ledger.postgres import as_owner, binaries

RESTART_SECONDS = 0.5
BODIES = "benchmarks.faults.bodies"


class Cluster:
    """Everything that can be hurt, by name."""

    def __init__(self, home: Path, database_url: str, settings: Mapping[str, str]) -> None:
        self.home, self.database_url = home, database_url
        self.port = free_port()
        self.broker = Broker.prepare(home / "broker")
        self.environment = os.environ | {
            "MIXLAB_HOME": str(home),
            "MIXLAB_DATABASE_URL": database_url,
            "MIXLAB_BROKER_URL": self.broker.url,
            "MIXLAB_DATA_ROOTS": f'["{home}"]',
            "MIXLAB_JOB_MODULE_PREFIX": BODIES,
            "MIXLAB_THREADS": "1",
            "MIXLAB_PORT": str(self.port),
            **settings,
        }
        self._commands: dict[str, list[str]] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._held: set[str] = set()
        self._due: dict[str, float] = {}
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "Cluster":
        (self.home / "logs").mkdir(parents=True, exist_ok=True)
        Ledger.open(self.database_url).close()  # brings it to the newest schema
        self._commands = {
            "broker": self.broker.command,
            "worker-cpu": worker(Queue.CPU, 1),
            "worker-gpu": worker(Queue.GPU, 3),
            "sweep": [sys.executable, "-m", "workers.sweep"],
            "api": [sys.executable, "-m", "api"],
        }
        for name in self._commands:
            self._start(name)
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeper.join()
        for name in list(self._running):
            self.kill(name)

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.port}"

    def process(self, name: str) -> int:
        """Process id."""
        return self._running[name].pid

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a process, alone; what it started is left to itself."""
        with suppress(ProcessLookupError):
            self._running[name].send_signal(number)
        if number is signal.SIGKILL:
            self._running[name].wait()

    def hold(self, name: str) -> None:
        """Let it not be started again until `release`."""
        with self._lock:
            self._held.add(name)

    def release(self, name: str) -> None:
        """Start it again."""
        with self._lock:
            self._held.discard(name)

    def _start(self, name: str, more: Mapping[str, str] | None = None) -> None:
        with (self.home / "logs" / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self._commands[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment | dict(more or {}), start_new_session=True,
            )  # fmt: skip

    def add(self, name: str, command: list[str], more: Mapping[str, str]) -> None:
        """Another process, which is not kept running."""
        with self._lock:
            self._commands[name] = command
            self._held.add(name)
            self._start(name, more)

    def _keep(self) -> None:
        while not self._over.wait(0.1):
            with self._lock:
                for name in list(self._commands):
                    if name not in self._held and self._running[name].poll() is not None:
                        self._bring_back(name)

    def _bring_back(self, name: str) -> None:
        now = time.monotonic()
        if self._due.setdefault(name, now + RESTART_SECONDS) > now:
            return
        with suppress(OSError):  # such as a full disk: it is tried again
            self._start(name)
            del self._due[name]


def restart_postgres(database_url: str) -> None:
    """Stop the server as a power cut would, and start it again."""
    folder = binaries()
    assert folder is not None
    home = Path(parse_qs(urlsplit(database_url).query)["host"][0])
    subprocess.run(
        [str(folder / "pg_ctl"), "-D", str(home / "data"), "-m", "immediate", "-w", "restart"],
        check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        user=as_owner(),
    )  # fmt: skip
