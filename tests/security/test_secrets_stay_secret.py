"""Passwords are in files, and in nothing that anybody else reads: logs, arguments, environments,
answers, errors. Provoked with a broker and a database that are down, and URLs that are none."""

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from redis import Redis

from cli.broker import free_port
from cli.up import Stack
from mixlab.ledger import Ledger
from mixlab.ledger.records import Job, JobKind, JobState, Queue
from tests.workers.conftest import QUICK, descendants, until
from workers.contract import SharedSettings
from workers.credentials import broker_url, database_url

MARK = "Zx9-mArKeD-paSSword/@:%41"  # needs encoding in a URL, and is in no other text
MET = re.compile("OperationalError|ConnectionError|Error 111|refused|can't be opened")
MARKS = ("Zx9-mArKeD", "mArKeD-paSSword")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(MARK + "\n")
    file.chmod(0o600)
    return file


class TestFiles:
    def test_a_password_file_completes_a_url(self, secret: Path) -> None:
        url = database_url("postgresql://me@db/mixlab", None, secret, default="")
        assert url == "postgresql://me:Zx9-mArKeD-paSSword%2F%40%3A%2541@db/mixlab"
        assert broker_url("redis://broker:6379/0", None, secret) == (
            "redis://:Zx9-mArKeD-paSSword%2F%40%3A%2541@broker:6379/0"
        )
        assert broker_url("rediss://me@a:1/0;rediss://me@b:1/0", None, secret).count("mArKeD") == 2

    def test_a_url_file_takes_the_urls_place(self, tmp_path: Path) -> None:
        file = tmp_path / "url"
        file.write_text("redis://:pw@host:1/0\r\n")
        assert broker_url("", file, None) == "redis://:pw@host:1/0"
        file.write_text("postgresql://me:pw@host/x")
        assert database_url("", file, None, default="") == "postgresql://me:pw@host/x"

    def test_a_database_that_holds_no_ledger_is_named_without_its_password(self) -> None:
        with pytest.raises(ValueError, match="database 'mysql'; the ledger lies in sqlite") as told:
            database_url("mysql://me:hidden@host/x", None, None, default="")
        assert "hidden" not in str(told.value)

    def test_settings_read_them(
        self, tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MIXLAB_DATABASE_URL", "postgresql://me@127.0.0.1:1/x")
        monkeypatch.setenv("MIXLAB_DATABASE_PASSWORD_FILE", str(secret))
        monkeypatch.setenv("MIXLAB_BROKER_PASSWORD_FILE", str(secret))
        settings = SharedSettings(home=tmp_path)
        assert "mArKeD" in settings.database_url.get_secret_value()
        assert "mArKeD" in settings.broker_url.get_secret_value()
        assert not any(mark in f"{settings!r} {settings.model_dump_json()}" for mark in MARKS)

    @pytest.mark.parametrize(
        "told",
        [
            {"DATABASE_URL": f"postgresql://me:{MARK}@host:port/x"}, {"DATABASE_URL": MARK},
            {"BROKER_URL": f"redis://:{MARK}@host:notaport/0"}, {"BROKER_URL": MARK},
            {"BROKER_URL": f"redis://:{MARK}@[::1/0"}, {"BROKER_URL_FILE": "FILE"},
            {"DATABASE_URL_FILE": "FILE"},
            {"DATABASE_URL": "sqlite:///x", "DATABASE_URL_FILE": "FILE"},
            {"DATABASE_URL": f"postgresql://me:{MARK}x@h/x", "DATABASE_PASSWORD_FILE": "FILE"},
            {"DATABASE_URL": "sqlite:///x", "DATABASE_PASSWORD_FILE": "FILE"},
            {"BROKER_URL": f"redis://:{MARK}@h/0", "BROKER_PASSWORD_FILE": "FILE"},
            {"BROKER_PASSWORD_FILE": "/nowhere/at/all"}, {"BROKER_PASSWORD_FILE": "LINES"},
            {"BROKER_PASSWORD_FILE": "EMPTY"}, {"BROKER_PASSWORD_FILE": "LONG"},
            {"BROKER_PASSWORD_FILE": "BINARY"}, {"BROKER_PASSWORD_FILE": "FOLDER"},
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_told_without_its_text(
        self, tmp_path: Path, secret: Path, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        contents = {"LINES": f"{MARK}\n{MARK}", "EMPTY": "\n", "LONG": MARK * 1000}
        files = {"FILE": secret, "FOLDER": tmp_path}
        for name, text in contents.items():
            files[name] = tmp_path / name
            files[name].write_text(text)
        files["BINARY"] = tmp_path / "BINARY"
        files["BINARY"].write_bytes(MARK.encode() + b"\xff\xfe")
        for name, value in told.items():
            monkeypatch.setenv(f"MIXLAB_{name}", str(files.get(value, value)))
        with pytest.raises(ValidationError) as caught:
            SharedSettings(home=tmp_path)
        text = f"{caught.value} {caught.value!r} {caught.getrepr(showlocals=False)}"
        assert "MIXLAB_" in text
        assert not [mark for mark in MARKS if mark in text]


# The real service


@contextmanager
def environment(**told: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(told)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def seen_of(processes: set[int]) -> str:
    """What others may see of processes: arguments, and where Linux shows them, environments."""
    parts = []
    for pid in processes:
        told = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(pid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        parts.append(told.stdout)
        with suppress(OSError):  # no Linux, or it has just ended
            parts.append(Path(f"/proc/{pid}/environ").read_text(errors="replace"))
    return "\n".join(parts)


def asked(url: str, body: dict[str, Any] | None = None) -> str:
    """An answer, whatever it is: its headers and its body."""
    request = urllib.request.Request(
        url, None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return f"{answer.headers} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.headers} {error.read().decode()}"
    except OSError as error:
        return str(error)


def logs_of(home: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted(home.glob("logs/*")))


def submit(ledger: Ledger, home: Path) -> Job:
    payload = {"act": "sleep", "effects": str(home / "effects"), "seconds": 0}
    return ledger.submit(JobKind.TRAIN, payload, queue=Queue.GPU)


def ended(ledger: Ledger, job: Job) -> bool:
    return ledger.job(job.id).state.terminal


def pickled(proof: Path) -> str:
    """A message as kombu would send a pickle of os.system."""
    body = base64.b64encode(f"cos\nsystem\n(S'touch {proof}'\ntR.".encode()).decode()
    delivery = {"exchange": "", "routing_key": "gpu"}
    properties = {
        "correlation_id": "x", "delivery_mode": 2, "delivery_tag": "x", "priority": 0,
        "delivery_info": delivery, "body_encoding": "base64",
    }  # fmt: skip
    headers = {"id": "x", "task": "mixlab.run_job", "lang": "py"}
    kind = "application/x-python-serialize"
    message = {"body": body, "content-encoding": "binary", "content-type": kind}
    return json.dumps({**message, "headers": headers, "properties": properties})


@pytest.mark.service
@pytest.mark.slow
def test_the_whole_service_keeps_its_brokers_password_and_runs_no_pickle(tmp_path: Path) -> None:
    with environment(**QUICK), Stack(tmp_path, cpu_workers=1, gpu_workers=1) as stack:
        url_file = tmp_path / "broker/url"
        assert url_file.stat().st_mode & 0o777 == 0o600
        found = re.fullmatch(r"redis://:(.+)@127.0.0.1:(\d+)/0", url_file.read_text().strip())
        assert found is not None
        password, port = found[1], int(found[2])
        ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
        client = Redis(port=port, password=password, socket_timeout=5)

        # CVE-2021-23727: a message that says it is pickled, and one that is none.
        proof = tmp_path / "ran"
        client.lpush("mixlab:gpu", pickled(proof), "no message at all")
        done = submit(ledger, tmp_path)
        until(lambda: ended(ledger, done))
        assert ledger.job(done.id).state is JobState.SUCCEEDED
        assert not proof.exists()

        started = descendants(os.getpid())
        assert len(started) >= 5
        paths = ("/readyz", "/metrics", "/jobs", "/docs", f"/jobs/{done.id}/logs")
        answers = [asked(f"{stack.base_url}{path}") for path in paths]
        seen = seen_of(started)
        client.shutdown(nosave=True)  # down; `up` brings it back
        answers += [asked(f"{stack.base_url}/readyz"), asked(f"{stack.base_url}/metrics")]
        after = submit(ledger, tmp_path)
        until(lambda: ended(ledger, after))
        seen += seen_of(descendants(os.getpid()))
        ledger.close()
    everything = {"answers": "\n".join(answers), "processes": seen, "logs": logs_of(tmp_path)}
    assert len(everything["logs"]) > 1000
    assert "workers.app" in seen
    for place, text in everything.items():
        assert password not in text, place
        assert not re.search(r"redis://:[^*@\s]+@", text), place


def outcome(output: Path, *command: str) -> tuple[str, str]:
    """What a command said until it had met its errors, and what others saw of it."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=file, stderr=file,
            start_new_session=True,  # a runner ends its whole group
        )  # fmt: skip
    deadline, seen = time.monotonic() + 45, ""
    while process.poll() is None and time.monotonic() < deadline:
        seen = seen_of({process.pid}) or seen
        if "api" in command:
            for path in ("/readyz", "/jobs", "/metrics", "/livez"):
                asked(f"http://127.0.0.1:{os.environ['MIXLAB_PORT']}{path}")
        if MET.search(output.read_text(errors="replace")):
            break
        time.sleep(0.3)
    process.terminate()
    process.communicate(timeout=20)
    return output.read_text(errors="replace"), seen


@pytest.mark.service
@pytest.mark.slow
def test_no_process_tells_the_passwords_of_what_it_cannot_reach(
    tmp_path: Path, secret: Path
) -> None:
    told = {
        "MIXLAB_HOME": str(tmp_path / "home"),
        "MIXLAB_DATABASE_URL": "postgresql://me@127.0.0.1:1/x",
        "MIXLAB_DATABASE_PASSWORD_FILE": str(secret), "MIXLAB_BROKER_URL": "redis://127.0.0.1:1/0",
        "MIXLAB_BROKER_PASSWORD_FILE": str(secret), "MIXLAB_PORT": str(free_port()),
        "MIXLAB_LEDGER_PATIENCE_SECONDS": "1", "MIXLAB_LOG_LEVEL": "DEBUG",
    }  # fmt: skip
    celery = ("-m", "celery", "-A", "workers.app", "worker", "-Q", "cpu", "-c", "1", "-l", "DEBUG")
    commands = {
        "api": ("-m", "api"), "sweep": ("-m", "workers.sweep"), "worker": celery,
        "runner": ("-m", "workers.runner", "job_1", "1"),
        "keys": ("-m", "cli.main", "keys", "list"),
        "up": ("-m", "cli.main", "up"), "report": (*celery[:4], "report"),
    }  # fmt: skip
    with environment(**told), ThreadPoolExecutor(len(commands)) as pool:
        ends = {
            name: pool.submit(outcome, tmp_path / name, *command)
            for name, command in commands.items()
        }
    for name, end in ends.items():
        said, seen = end.result()
        assert MET.search(said) or name == "report", f"{name} met nothing: {said}"
        for mark in (*MARKS, "paSSword%2F"):
            assert mark not in said, f"{name} said it"
            assert mark not in seen, f"{name} showed it"
