"""Where libfaketime lies, which gives one process a clock of its own."""

import glob
from pathlib import Path

PLACES = (
    "/usr/lib/*/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)


def faketime() -> Path | None:
    """The library for programs with threads; None where it isn't installed."""
    found = [Path(file) for place in PLACES for file in glob.glob(place)]
    return found[0] if found else None
