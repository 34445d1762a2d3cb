"""Memory that an update frees is kept for the next one, in large pages.

glibc gives memory back to the system when enough of it is free, and an update frees nearly all
that it took: the next one gets it again in pages of 4 KB, each zeroed first. Kept, and in
pages of 2 MB, it costs nothing: 6 to 10 % of an update of a 1.4M decoder on two cores.

`hold_memory` is for the time of a run; large pages, for torch's arrays of 2 MB and more, are
asked for by a variable of torch's, unless the user has set it.
Limits: Linux with glibc; elsewhere both do nothing. At most HELD_BYTES are kept from others.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

HELD_BYTES = 1 << 30
# Larger arrays are the system's own each time, so that they leave no holes.
LARGEST_HELD_BYTES = 64 << 20
# Where glibc's own rule, which ends when it is overruled, would have come to.
USUAL_HELD_BYTES, USUAL_LARGEST_BYTES = 64 << 20, 32 << 20
# Of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

# Torch reads it at its first array, so this stands where the package is imported first.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextmanager
def hold_memory() -> Iterator[None]:
    """Freed memory stays with the process until the end, and then is given back."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_TRIM_THRESHOLD, HELD_BYTES)
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_HELD_BYTES)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, USUAL_HELD_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, USUAL_LARGEST_BYTES)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is GNU's."""
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "gnu_get_libc_version") else None
    except (OSError, TypeError):
        return None
