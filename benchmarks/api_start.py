"""How long the API takes from its start as a process to its first answer, on an existing ledger."""

import os
import subprocess
import sys
import tempfile
import time
from statistics import median

import httpx

from cli.broker import free_port

STARTS = 5


def start_seconds(home: str) -> float:
    """Seconds from starting the process to its first list of jobs."""
    port = free_port()
    environment = {**os.environ, "MIXLAB_HOME": home, "MIXLAB_PORT": str(port)}
    began = time.perf_counter()
    command = [sys.executable, "-m", "api"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not _answers(f"http://127.0.0.1:{port}/jobs"):
                time.sleep(0.005)
            return time.perf_counter() - began
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def main() -> None:
    """Print the median of a few starts after one that makes the ledger."""
    with tempfile.TemporaryDirectory() as home:
        start_seconds(home)
        found = median(start_seconds(home) for _ in range(STARTS))
    sys.stdout.write(f"API, start to first answer, median of {STARTS}: {found:.2f} s\n")


if __name__ == "__main__":
    main()
