"""Logs of the API, the workers, the sweep and the runners: one form for all, on standard error.

    MIXLAB_LOG_FORMAT=text   2026-11-21T20:15:01.123Z INFO workers.sweep: sent 3 jobs [host=a]
    MIXLAB_LOG_FORMAT=json   {"time": "...", "level": "INFO", "logger": "workers.sweep", ...}

What lines are about (a request, a job and its attempt, a worker, an API key) is said once, where
it is known, and stands in every line from there on, those of libraries too. What looks like a
secret is hidden: credentials in URLs, API keys but for their number, passwords that are named so.
Limits: a secret that stands alone and looks like any other word passes.
"""

import logging
import logging.config
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from pythonjsonlogger.json import JsonFormatter


class LogFormat(StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


# Lengths are bounded, since a message may hold a user's text of any length.
_SECRETS = (
    (re.compile(r"://[^\s\"'<>]{0,512}@"), "://***@"),
    (re.compile(r"\b(mlk_[0-9A-Za-z]{1,32})_[0-9A-Za-z]+"), r"\1_***"),
    (re.compile(r"(?i)\b(bearer\s+|authorization\W{1,4}basic\s+)[\w.~+/=-]{8,}"), r"\1***"),
    (
        re.compile(
            r"(?i)(passw(?:or)?d|secret|api_?key|access_?key)([\"']?\s?[=:]\s?[\"']?)[^\s\"',&;)]+"
        ),
        r"\1\2***",
    ),
)
# A user's line break must not look like a line of ours, nor an escape sequence steer a terminal.
_CONTROLS = {n: f"\\x{n:02x}" for n in (*range(32), 127) if n != 9} | {10: "\\n", 13: "\\r"}
_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"
_NAMES = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"}

_process: dict[str, str] = {}  # what all lines of this process are about
_asked: list[Callable[[], Mapping[str, object]]] = []  # the same, asked at each line
_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Say what the lines within are about; None and "" say nothing."""
    token = _about.set(MappingProxyType({**_about.get(), **_told(fields)}))
    try:
        yield
    finally:
        _about.reset(token)


def configure(
    log_format: LogFormat,
    level: str = "INFO",
    *,
    more: Callable[[], Mapping[str, object]] = dict,
    **fields: object,
) -> None:
    """Send all logs of this process to standard error in one form.

    The fields, and those of `more` as they are then, stand in every line.
    """
    _process.clear()
    _process.update(_told(fields))
    _asked[:] = [more]
    logging.config.dictConfig(_configuration(log_format, level))


def redacted(text: str) -> str:
    """The text without what looks like a secret."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def _told(fields: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items() if value not in (None, "")}


def _now_about() -> dict[str, str]:
    told = dict(_process)
    for more in _asked:
        told |= _told(more())
    return told | dict(_about.get())


def _configuration(log_format: LogFormat, level: str) -> dict[str, Any]:
    formatter = JsonLines if log_format is LogFormat.JSON else TextLines
    # uvicorn and Celery bring handlers of their own; theirs go, and the root's one remains.
    plain: dict[str, Any] = {"handlers": [], "propagate": True, "level": "NOTSET"}
    # Of each request the API writes a line itself, which knows its route and its key.
    quiet = plain | {"level": "WARNING"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            **dict.fromkeys(("uvicorn", "uvicorn.error", "celery", "celery.task"), plain),
            **dict.fromkeys(("uvicorn.access", "httpx", "alembic"), quiet),
        },
    }


class TextLines(logging.Formatter):
    """A line for people, then the traceback if there is one."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The first line."""
        record.message = record.message.translate(_CONTROLS)
        fields = " ".join(f"{name}={value}" for name, value in _now_about().items())
        return super().formatMessage(record) + (
            f" [{fields.translate(_CONTROLS)}]" if fields else ""
        )

    def format(self, record: logging.LogRecord) -> str:
        """The whole text."""
        return redacted(super().format(record))


class JsonLines(JsonFormatter):
    """A line for programs: one JSON object, a traceback within it."""

    converter = staticmethod(time.gmtime)
    default_time_format = TextLines.default_time_format
    default_msec_format = TextLines.default_msec_format

    def __init__(self) -> None:
        super().__init__(_FIELDS, rename_fields=_NAMES)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Add what the line is about, and hide secrets while values are not yet JSON."""
        told = super().process_log_record({**log_data, **_now_about()})
        told.pop("color_message", None)  # uvicorn's, for terminals
        return {name: _harmless(value) for name, value in told.items()}


def _harmless(value: object) -> object:
    return value if isinstance(value, bool | int | float) else redacted(str(value))
