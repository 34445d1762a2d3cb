"""`mixlab up`: the whole service on one machine, on the loopback address unless told otherwise.

    broker, API, worker of the cpu queue, worker of the gpu queue, sweep

Each is a process of its own that is started again should it end. State lives
in the home folder: the ledger, the broker's append-only file, shards, logs.
Whatever was killed, the next start goes on from there.
"""

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import IO, Annotated, Any, NoReturn, Self

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy.exc import SQLAlchemyError

from api.settings import Settings
from cli.broker import Broker, CannotStart, free_port
from cli.corpora import default_folder
from cli.processes import Child, Processes, Say
from mixlab.ledger import Ledger
from mixlab.ledger.records import Queue
from workers.gpus import installed
from workers.settings import WorkerSettings

PORT = 8712
LOOPBACK = "127.0.0.1"
LOCAL_HOSTS = ("localhost", LOOPBACK, "[::1]")
# What says where a broker is; the one that is started here takes their place.
BROKERS = ("MIXLAB_BROKER_URL", "MIXLAB_BROKER_URL_FILE", "MIXLAB_BROKER_PASSWORD_FILE")
API = [sys.executable, "-m", "api"]
API_SECONDS = 30.0
STOP_SECONDS = 8.0  # for a worker to stop, beside what its training runs need


class Stack:
    """The service as a context manager, on a free port unless told which.

    `gpu_workers` is how many training jobs run at once: one per GPU; without a GPU one per CPU
    core, each with one thread, since short runs of small models gain more from company than
    from threads. MIXLAB_THREADS in the environment overrides the threads.
    """

    def __init__(
        self,
        home: Path,
        *,
        data_roots: Sequence[Path] = (),
        host: str = LOOPBACK,
        port: int | None = None,
        cpu_workers: int | None = None,
        gpu_workers: int | None = None,
        say: Say = lambda _line: None,
    ) -> None:
        self.home = home.expanduser().resolve()
        self._host = host
        self._port = port
        self._data_roots = data_roots
        self._gpus = count_gpus()
        self._slots = {
            Queue.CPU: cpu_workers or min(cores(), 4),
            Queue.GPU: gpu_workers or self._gpus or cores(),
        }
        self._say = say
        self._lock: IO[str] | None = None
        self._processes: Processes | None = None

    @property
    def base_url(self) -> str:
        """Where the API answers."""
        return f"http://{self._named_host()}:{self._port}"

    @property
    def logs(self) -> Path:
        """Where every process and every attempt of a job has its log."""
        return self.home / "logs"

    def start(self) -> Self:
        """Start everything; return once the API answers. Raises CannotStart."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        settings = _checked_settings(self.home, self._host)
        # A new home is its user's alone; who made one otherwise meant it.
        if not self.home.exists():
            self.home.mkdir(parents=True, mode=0o700)
        self.logs.mkdir(parents=True, exist_ok=True)
        self._lock = _only_one(self.home)
        self._port = _checked(self._host, self._port)
        broker = Broker.prepare(self.home / "broker")
        _migrate(settings)
        self._processes = Processes(self.logs, self._environment(broker), self._say)
        started = self._processes.start("broker", broker.command)
        broker.wait(started.process, started.log)
        for queue in Queue:
            self._processes.start(f"worker-{queue}", worker(queue, self._slots[queue]))
        self._processes.start("sweep", [sys.executable, "-m", "workers.sweep"])
        self._wait_for(self._processes.start("api", API))
        self._lock.write(f"{self.base_url} (process {os.getpid()})")
        self._lock.flush()

    def stop(self) -> None:
        """Stop everything; running jobs go back into the queue."""
        if self._processes is not None:
            # The broker last: workers hand their jobs back through it. They may first have to wait
            # for the checkpoint of a training run.
            patience = WorkerSettings(home=self.home).checkpoint_grace_seconds
            self._processes.stop(
                ["api", "sweep", *(f"worker-{queue}" for queue in Queue)], patience + STOP_SECONDS
            )
            self._processes.close()
            self._processes = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _environment(self, broker: Broker) -> dict[str, str]:
        # The broker's password goes by a file: variables show in what children hand on and report.
        told = {
            "MIXLAB_HOME": str(self.home),
            "MIXLAB_BROKER_URL_FILE": str(broker.url_file),
            "MIXLAB_HOST": self._host,
            "MIXLAB_PORT": str(self._port),
        }
        if self._data_roots:
            told["MIXLAB_DATA_ROOTS"] = json.dumps([str(root) for root in self._data_roots])
        defaults = {
            "MIXLAB_GPUS": str(self._gpus),
            "MIXLAB_ALLOWED_HOSTS": json.dumps(sorted({*LOCAL_HOSTS, self._named_host()})),
        }
        if not self._gpus:
            threads = max(1, cores() // self._slots[Queue.GPU])
            defaults["MIXLAB_THREADS"] = str(threads)
        inherited = {name: text for name, text in os.environ.items() if name not in BROKERS}
        return defaults | inherited | told

    def _named_host(self) -> str:
        """The host as it stands in a URL."""
        try:
            address = ip_address(self._host)
        except ValueError:
            return self._host
        if address.is_unspecified:  # all of this machine's
            address = ip_address(LOOPBACK if address.version == 4 else "::1")
        return str(address) if address.version == 4 else f"[{address}]"

    def _wait_for(self, child: Child) -> None:
        deadline = time.monotonic() + API_SECONDS
        while not _answers(f"{self.base_url}/livez"):
            if time.monotonic() > deadline or child.quick_ends > 1:
                raise CannotStart(f"The API does not answer at {self.base_url}; see {child.log}.")
            time.sleep(0.05)


def worker(queue: Queue, slots: int) -> list[str]:
    """The command of a worker that does so many jobs of a queue at once."""
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    options = ["-Q", queue.value, "-P", "prefork", "-c", str(slots), "-O", "fair", "-l", "INFO"]
    name = ["-n", f"{queue}-{os.getpid()}@%h"]
    return [sys.executable, "-m", "celery", "-A", "workers.app", "worker", *options, *name, *quiet]


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_gpus() -> int:
    """GPUs that jobs will be given (workers/gpus.py); 0 where the driver doesn't say. No torch."""
    try:
        return len(installed(WorkerSettings()))
    except (OSError, ValueError):  # settings that can't be used are told by start()
        return 0


def _only_one(home: Path) -> IO[str]:
    """Hold the home folder's lock; the system frees it when this process ends, however."""
    lock = (home / "up.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        where = lock.read() or "it is just starting"
        lock.close()
        raise CannotStart(
            f"mixlab is already up in {home}: {where}. Stop that one, or choose another --home."
        ) from None
    lock.truncate(0)  # what an earlier one wrote
    return lock


def _checked_settings(home: Path, host: str) -> Settings:
    """The settings of the API; those of the workers are read too. Raises CannotStart."""
    try:
        WorkerSettings(home=home)
        return Settings(home=home, host=host)
    except ValidationError as problem:
        told = "; ".join(map(_told, problem.errors(include_input=False)))
    except SettingsError as problem:
        told = f'{problem}; lists are written as JSON, such as ["/data"]'
    raise CannotStart(f"The environment's MIXLAB_* settings can't be used: {told}.")


def _told(error: Mapping[str, Any]) -> str:
    name = ".".join(map(str, error["loc"])).upper()
    text = str(error["msg"]).removeprefix("Value error, ").removesuffix(".")
    return f"MIXLAB_{name}: {text}" if name else text


def _migrate(settings: Settings) -> None:
    """Bring the ledger to this version's schema. Raises CannotStart.

    An address that others reach needs an API key first.
    """
    try:
        ledger = Ledger.open(settings.database_url.get_secret_value())
        closed = settings.only_local or ledger.keys.exist()
        ledger.close()
    except SQLAlchemyError as problem:
        # Only the class: the text of some drivers holds the URL and its password.
        raise CannotStart(
            f"The ledger can't be opened ({type(problem).__name__}). It is ledger.sqlite in the "
            "home folder, or what MIXLAB_DATABASE_URL names; mend or move it, or choose another."
        ) from problem
    if not closed:
        raise CannotStart(
            f"Others could reach {settings.host}, and there is no API key yet. Make one with "
            f"`mixlab keys create NAME --home {settings.home}`, or leave --host out."
        )


def _checked(host: str, port: int | None) -> int:
    if port is None:
        return free_port()
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as problem:
        raise CannotStart(
            f"Port {port} of {host} can't be had ({problem.strerror}); choose another with --port."
        ) from None
    return port


def _answers(url: str) -> bool:
    try:
        # Without the proxies of the environment: this is an address of this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True  # such as a Host header that MIXLAB_ALLOWED_HOSTS leaves out
    except (urllib.error.URLError, OSError):
        return False
    return True


def up(
    home: Annotated[
        Path, typer.Option(envvar="MIXLAB_HOME", help="Ledger, shards, checkpoints and logs.")
    ] = Path(".mixlab"),
    host: Annotated[
        str, typer.Option(help="Address of the API; others than 127.0.0.1 need an API key first.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API.")] = PORT,
    data_root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder that corpora may be read from; may be repeated. "
            "Without it: this folder, and that of fetched corpora."
        ),
    ] = None,
    cpu_workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokenising and fitting jobs at once. Without it: one per core, at most 4."
        ),
    ] = None,
    gpu_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Training jobs at once. Without it: one per GPU, or per core."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print where it is as one line of JSON.")
    ] = False,
) -> None:
    """Start the API, the workers, the sweep and a broker on this machine. Ctrl-C stops all."""
    signal.signal(signal.SIGTERM, _interrupt)
    stack = Stack(
        home, data_roots=_roots(data_root), host=host, port=port,
        cpu_workers=cpu_workers, gpu_workers=gpu_workers, say=_say,
    )  # fmt: skip
    try:
        with stack:
            _tell(stack, as_json)
            threading.Event().wait()
    except KeyboardInterrupt:
        _say("stopped; running jobs go on at the next start")


def _roots(given: list[Path] | None) -> list[Path]:
    """Where corpora may be read from; empty where the environment says. Raises CannotStart."""
    if given:
        for root in given:
            if not root.is_dir():
                raise CannotStart(f"--data-root {root} is no folder; make it, or name another.")
        return [root.resolve() for root in given]
    if "MIXLAB_DATA_ROOTS" in os.environ:
        return []
    return [Path.cwd(), default_folder()]


def _tell(stack: Stack, as_json: bool) -> None:
    if as_json:
        places = {"url": stack.base_url, "home": str(stack.home), "logs": str(stack.logs)}
        typer.echo(json.dumps(places))
    _say(f"mixlab is up: {stack.base_url} (what it offers: {stack.base_url}/docs)")
    _say(f"home {stack.home}, logs in {stack.logs}; Ctrl-C stops everything")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
