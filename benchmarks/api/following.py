"""A thousand open event streams: what they cost the server, and how soon all hear of a change."""

import asyncio
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.api.load import Connection, cpu_seconds, request

IDLE_SECONDS = 10.0
AT_ONCE = 50  # connections being opened


@dataclass(frozen=True)
class Streams:
    """What was measured of them."""

    count: int
    before_mib: float
    open_mib: float
    cpu_percent: float  # of a core, while nothing happens
    told_seconds: float  # from the last of the changes until every stream had its frame


async def measure(
    url: str, job_ids: Sequence[str], process_id: int, change_all: Callable[[], None]
) -> Streams:
    """Open a stream for each id, wait, change every job, and see when all streams have heard."""
    before = resident_mib(process_id)
    gate = asyncio.Semaphore(AT_ONCE)

    async def listen(job_id: str) -> Connection:
        async with gate:
            connection = await Connection.open(url)
            ask = request(url, "GET", f"/jobs/{job_id}/events", Accept="text/event-stream")
            connection.writer.write(ask)
            await connection.reader.readuntil(b"event: submitted\n")
            return connection

    streams = await asyncio.gather(*map(listen, job_ids))
    idle = await _idle(process_id)
    open_mib = resident_mib(process_id)
    hearing = [asyncio.create_task(_hear(stream)) for stream in streams]
    await asyncio.to_thread(change_all)
    changed = time.perf_counter()
    heard = await asyncio.gather(*hearing)
    for stream in streams:
        stream.close()
    return Streams(len(streams), before, open_mib, idle, max(heard) - changed)


async def _hear(stream: Connection) -> float:
    await stream.reader.readuntil(b"event: cancelled\n")
    return time.perf_counter()


async def _idle(process_id: int) -> float:
    """Per cent of a core that the process uses while nothing happens."""
    before = cpu_seconds(process_id)
    await asyncio.sleep(IDLE_SECONDS)
    return 100 * (cpu_seconds(process_id) - before) / IDLE_SECONDS


def resident_mib(process_id: int) -> float:
    """Memory of a process, without what it has given back."""
    return int(_ps("rss=", process_id)) / 1024


def _ps(column: str, process_id: int) -> str:
    command = ["ps", "-o", column, "-p", str(process_id)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
