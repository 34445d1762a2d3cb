"""How many values a JSON text holds and how deeply it nests, counted before it is parsed.

A value of one or two bytes takes up to a hundred once it is parsed, and what is nested deeply
costs whoever walks it. Texts are left out of the count, since they may hold any character; what
is not JSON at all is for the parser to tell.
"""

import re

from api.errors import RequestRefused

MAX_DEPTH = 32
# Possessive, and with an optional end, so that no text makes it go back.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_INNERMOST = re.compile(rb"\[\]|\{\}")
_BRACKETS = b"[]{}"
_OTHERS = bytes(set(range(256)) - set(_BRACKETS))


def check_shape(body: bytes, most_values: int) -> None:
    """Raise RequestRefused for too many values (413) or too deep a nesting (400)."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH and body.count(b",") < most_values:
        return
    bare = _TEXT.sub(b"", body)
    values = 1 + sum(bare.count(mark) for mark in (b",", b"[", b"{"))
    if values > most_values:
        raise RequestRefused(
            413,
            f"The body holds {values} values; MIXLAB_MAX_BODY_VALUES lets {most_values} through.",
        )
    if _deeper_than(bare.translate(None, _OTHERS), MAX_DEPTH):
        raise RequestRefused(400, f"The body is nested more than {MAX_DEPTH} deep.")


def _deeper_than(brackets: bytes, depth: int) -> bool:
    """Whether more than so many levels are left after taking the innermost away as often."""
    for _ in range(depth):
        fewer = _INNERMOST.sub(b"", brackets)
        if len(fewer) == len(brackets):
            return False  # empty, or no JSON
        brackets = fewer
    return bool(brackets)
