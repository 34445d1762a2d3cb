"""One process of a training run: `python -m mixlab.training SPEC.json`, or torchrun's `-m` of it.

SIGTERM and SIGINT make a checkpoint and end it with status 0. Status 1 is an error, told in one
line, and as an event to the file or pipe of `--events` (or the spec's `events`).
With `--end-with-stdin` it ends at once when its standard input does: torchrun puts each process
into a session of its own, so whoever started torchrun could die and leave them running.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from mixlab.errors import MixlabError, NotWritten
from mixlab.training import events
from mixlab.training.events import Event
from mixlab.training.parallel import World
from mixlab.training.running import run_spec
from mixlab.training.spec import RunSpec

log = logging.getLogger("mixlab.training")
CRASHED = 70  # EX_SOFTWARE: worth another try, unlike 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; the exit status."""
    asked = _parsed(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if asked.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    stop = _stop_on_signals()
    rank = int(os.environ.get("RANK", "0"))
    to: Path | None = asked.events

    def tell(event: Event) -> None:
        if to is None:
            return
        try:
            events.write(to, event)
        except OSError as problem:
            raise NotWritten(
                f"{to} takes no events ({problem.strerror}); name a file or a pipe that does."
            ) from problem

    try:
        spec = RunSpec.read(asked.spec)
        to = to or spec.events
        tell({"event": "started", "rank": rank, "pid": os.getpid()})
        with World.of_environment(sharding=spec.sharding) as world:
            run_spec(spec, emit=tell if world.main else _silent, stop=stop, world=world)
    except MixlabError as problem:
        log.error("error: %s", problem)
        with suppress(NotWritten):
            tell(events.of_error(problem))
        return 1
    except Exception as problem:  # the process's outermost door: whoever started it is told
        log.exception("rank %d crashed", rank)
        with suppress(NotWritten):
            tell(events.of_crash(problem, rank))
        return CRASHED
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mixlab.training", description=__doc__)
    parser.add_argument("spec", type=Path, help="a run's spec, as `mixlab train` writes it")
    parser.add_argument("--events", type=Path, help="file or named pipe that gets the run's events")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin does")
    return parser.parse_args(arguments)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _stop_on_signals() -> Callable[[], bool]:
    """Whether SIGTERM or SIGINT came."""
    asked = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return asked.is_set


def _silent(_event: Event) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
