"""The real application under its real server, on a free port, in a thread of this process."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from api.serving import configuration
from api.settings import Settings

# One, since each loads the certificates of the system, which takes longer than a request.
HTTP = httpx.Client(timeout=20, trust_env=False, limits=httpx.Limits(max_connections=None))


@contextmanager
def served(app: FastAPI, settings: Settings) -> Iterator[str]:
    """Serve the app; gives its URL."""
    config = configuration(app, settings.model_copy(update={"port": 0}))
    config.log_level = "warning"
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


@dataclass
class Frame:
    """One server-sent event, or a comment."""

    event: str = ""
    data: str = ""
    id: str = ""
    comments: list[str] = field(default_factory=list)

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found


@contextmanager
def listening(url: str, **headers: str) -> Iterator[Iterator[Frame]]:
    """The frames of a stream as they come; the connection closes with the context."""
    accept = {"Accept": "text/event-stream", **headers}
    with HTTP.stream("GET", url, headers=accept) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        frames = frames_of(answer.iter_lines())  # held here: dropped, it would close the stream
        yield frames


def frames_of(lines: Iterator[str]) -> Iterator[Frame]:
    """Read as the HTML standard has it, as far as the service writes it."""
    frame = Frame()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if frame.event or frame.comments:
                yield frame
            frame = Frame()
        elif not name:
            frame.comments.append(value)
        elif name in ("event", "data", "id"):
            setattr(frame, name, value)
