"""What routes import at their first use, imported beforehand.

The laws' packages take a second to import, in which nobody else's request is answered in good
time. So a thread does it once the server listens, instead of the first one who asks for a fit.
"""

import gc
import importlib
import threading

LATE = (
    "mixlab.tables",
    "mixlab.choosing.competing",
    "mixlab.design.filling",
    "mixlab.questions",
    "redis",
)


def begin() -> threading.Thread:
    """Start to import, for a process that does nothing but serve; returns at once."""
    thread = threading.Thread(target=_warm, name="warming", daemon=True)
    thread.start()
    return thread


def _warm() -> None:
    for name in LATE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
