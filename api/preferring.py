"""How long a client would like to wait for an answer: `?wait=`, or `Prefer: wait=` (RFC 7240).

A preference that can't be read is none, as the RFC has it; one for longer than the
service lets an answer take is cut down, and `Preference-Applied` says to what.
"""

import re
from typing import Annotated

from fastapi import Header, Query, Request

APPLIED = "Preference-Applied"
LONGEST_SECONDS = 60
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(;.*)?', re.IGNORECASE)

# Declared for clients to see; what is read are all such headers, of which there may be several.
Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description=f"`wait=N`: answer when the job has ended, or after N s (at most "
        f"{LONGEST_SECONDS}).",
        examples=["wait=10"],
    ),
]
WaitQuery = Annotated[
    int | None,
    Query(ge=0, le=2**31 - 1, description=f"As `Prefer: wait`; at most {LONGEST_SECONDS} count."),
]


async def preferred(prefer: Prefer = None) -> None:
    """Declares the header, for routes whose answers are waited for by their route class."""


def wait_asked(request: Request, wait: int | None) -> int | None:
    """Seconds to wait, by the query or else by preference, as far as they are granted."""
    return wait_preferred(request) if wait is None else _granted(request, wait)


def wait_preferred(request: Request) -> int | None:
    """What Prefer headers say of waiting, as far as it is granted; of several the first."""
    headers = request.headers.getlist("prefer")
    matches = (_WAIT.fullmatch(part) for header in headers for part in header.split(","))
    found = next((int(match[1]) for match in matches if match), None)
    return None if found is None else _granted(request, found)


def _granted(request: Request, seconds: int) -> int:
    # An answer that does not begin in time is cut off (limits.py), so a wait ends well before.
    most = min(LONGEST_SECONDS, int(request.app.state.settings.answer_seconds * 2 / 3))
    return min(seconds, most)
