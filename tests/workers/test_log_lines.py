"""Log lines: one form for all processes, what they are about, and no secret in them."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workers import logs
from workers.logs import JsonLines, LogFormat, TextLines, redacted

TOKEN = f"mlk_{'ab' * 12}_{'cd' * 32}"
ROOT = Path(__file__).parents[2]


def _record(message: str, *args: Any, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord("a.logger", logging.INFO, __file__, 1, message, args, None)
    record.__dict__.update(more)
    return record


@pytest.fixture(params=[TextLines, JsonLines])
def formatter(request: pytest.FixtureRequest) -> logging.Formatter:
    made: logging.Formatter = request.param()
    return made


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("connecting to redis://:hunter2@broker:6379/0", "hunter2"),
        ("postgresql+psycopg://mixlab:p%40ss/w@host/db failed", "p%40ss"),
        ("redis://user:pa@ss@host/0", "pa@ss"),
        (f"Authorization: Bearer {TOKEN}", "cd" * 32),
        (f"?key={TOKEN}&x=1", "cd" * 32),
        ("Authorization: Basic bWl4bGFiOmh1bnRlcjI=", "bWl4bGFiOmh1bnRlcjI="),
        ("host=db password=hunter2 dbname=mixlab", "hunter2"),
        ('{"password": "hunter2"}', "hunter2"),
        ("AWS_SECRET_ACCESS_KEY=abc/def+ghi", "abc/def"),
        ("requirepass: the passwd = 'hunter2'", "hunter2"),
    ],
)
def test_secrets_are_hidden(formatter: logging.Formatter, text: str, secret: str) -> None:
    assert secret in text
    line = formatter.format(_record("%s", text))
    assert secret not in line
    assert "***" in line


def test_secrets_are_hidden_in_tracebacks_and_in_what_is_added(
    formatter: logging.Formatter,
) -> None:
    try:
        raise OSError("no route to redis://:hunter2@broker")
    except OSError:
        record = _record("failed", url="redis://:hunter3@broker")
        record.exc_info = sys.exc_info()
    line = formatter.format(record)
    assert "OSError" in line
    assert "hunter" not in line


def test_what_names_a_key_but_opens_nothing_stays() -> None:
    assert redacted(TOKEN) == f"mlk_{'ab' * 12}_***"
    plain = "GET https://host:8712/jobs?page_size=5 took 3 tokens, see a@b.example"
    assert redacted(plain) == plain


def test_hiding_takes_no_longer_than_reading() -> None:
    import time

    began = time.process_time()
    for text in ("://a" * 100_000, "mlk_" * 100_000, "password=" * 50_000, "bearer " * 60_000):
        redacted(text)
    assert time.process_time() - began < 3


def test_json_lines_are_json_whatever_they_say(formatter: logging.Formatter) -> None:
    nasty = 'a "quoted" password="x\\" line\nbreak \x1b[31m \ud800 {"a": 1}'
    line = JsonLines().format(_record("%s", nasty, odd=object(), number=1.5))
    assert len(line.splitlines()) == 1
    told = json.loads(line)
    assert told["level"] == "INFO"
    assert told["logger"] == "a.logger"
    assert told["number"] == 1.5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["time"])


def test_a_message_can_forge_no_line_and_steer_no_terminal() -> None:
    line = TextLines().format(_record("%s", "x\n2026-01-01 ERROR forged\r\x1b[2J"))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_lines_say_what_they_are_about(formatter: logging.Formatter) -> None:
    with logs.about(job_id="job_1", attempt=2), logs.about(worker="a:1", nothing=None):
        line = formatter.format(_record("done"))
    for word in ("job_1", "2", "a:1"):
        assert word in line
    assert "nothing" not in line
    assert "job_1" not in formatter.format(_record("later"))


SCRIPT = """
import logging, threading, warnings
from workers import logs
from workers.logs import LogFormat
logs.configure(LogFormat("{form}"), "INFO", more=lambda: {{"request_id": "r-1"}}, worker="w:1")
logging.getLogger("celery.worker").info("ready")
logging.getLogger("uvicorn.error").info("started")
logging.getLogger("uvicorn.access").info("GET / 200")
logging.getLogger("any.library").warning("redis://:hunter2@x")
logging.getLogger("any.library").debug("not this")
thread = threading.Thread(target=lambda: logging.getLogger("t").info("in a thread"))
thread.start(); thread.join()
"""


@pytest.mark.parametrize("form", list(LogFormat))
def test_all_logs_of_a_process_have_one_form(form: LogFormat) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(form=form.value)],
        capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert done.stdout == ""
    for line, name in zip(
        lines, ("celery.worker", "uvicorn.error", "any.library", "t"), strict=True
    ):
        assert (
            (json.loads(line)["logger"] == name) if form is LogFormat.JSON else f" {name}: " in line
        )
        assert "w:1" in line
        assert "r-1" in line
        assert "hunter2" not in line
