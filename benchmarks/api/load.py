"""A light load generator: raw HTTP/1.1 over kept connections, at a steady rate.

Requests leave when they are due, whether or not earlier ones were answered, and
are timed from when they were due: a server that stalls is not asked more
gently, so its stall shows. A request costs this process about a tenth of what
it costs the server; both share the machine.
"""

import asyncio
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MOST_CONNECTIONS = 128
IDLE_SECONDS = 2.0  # the server closes connections that are idle for 5 s


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


@dataclass
class Timed:
    """Answers and their seconds."""

    seconds: list[float] = field(default_factory=list)
    answers: list[Answer | None] = field(default_factory=list)  # None: the connection broke
    cpu_seconds: float = 0.0  # of the server, where it was looked at

    def quantile_ms(self, share: float) -> float:
        """The milliseconds that so great a share of the answers took at most."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    def count(self, status: int) -> int:
        """How many answers had that status."""
        return sum(one is not None and one.status == status for one in self.answers)


class Connection:
    """One connection that is used again and again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.used = time.perf_counter()

    @classmethod
    async def open(cls, url: str) -> "Connection":
        """Connect to a server."""
        place = urlsplit(url)
        assert place.hostname is not None
        return cls(*await asyncio.open_connection(place.hostname, place.port or 80))

    async def ask(self, request: bytes) -> Answer:
        """Send a request and read its answer, which must have a Content-Length."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        body = await self.reader.readexactly(int(length or 0))
        self.used = time.perf_counter()
        return Answer(status, body)

    def close(self) -> None:
        """Let go of it."""
        self.writer.close()


def request(url: str, method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """The bytes of a request."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


def steadily(url: str, requests: Sequence[bytes], per_second: float, process_id: int) -> Timed:
    """Send the requests one by one at a rate; the process is the server's."""
    before = cpu_seconds(process_id)
    found = asyncio.run(_at_rate(url, requests, per_second))
    found.cpu_seconds = cpu_seconds(process_id) - before
    return found


def cpu_seconds(process_id: int) -> float:
    """Seconds of a core that a process has used so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _at_rate(url: str, requests: Sequence[bytes], per_second: float) -> Timed:
    found = Timed([0.0] * len(requests), [None] * len(requests))
    free: list[Connection] = []
    places = asyncio.Semaphore(MOST_CONNECTIONS)
    began = time.perf_counter()

    async def one(number: int, due: float) -> None:
        async with places:
            connection = _fresh(free) or await Connection.open(url)
            try:
                found.answers[number] = await connection.ask(requests[number])
                free.append(connection)
            except (OSError, asyncio.IncompleteReadError):
                connection.close()
        found.seconds[number] = time.perf_counter() - due

    async with asyncio.TaskGroup() as group:
        for number in range(len(requests)):
            due = began + number / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(number, due))
    for connection in free:
        connection.close()
    return found


def _fresh(free: list[Connection]) -> Connection | None:
    """The connection that was used last, unless it was idle for long."""
    if free and time.perf_counter() - free[-1].used < IDLE_SECONDS:
        return free.pop()
    return None


async def one_by_one(url: str, requests: Sequence[bytes]) -> Timed:
    """Send each once the one before is answered."""
    found, connection = Timed(), await Connection.open(url)
    for each in requests:
        began = time.perf_counter()
        found.answers.append(await connection.ask(each))
        found.seconds.append(time.perf_counter() - began)
    connection.close()
    return found
