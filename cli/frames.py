"""Server-sent events read as the HTML standard has them, as far as the service writes them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Frame:
    """One event."""

    event: str = "message"
    id: str = ""
    data: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """Its data."""
        found: dict[str, Any] = json.loads("\n".join(self.data))
        return found


def frames(lines: Iterator[str]) -> Iterator[Frame]:
    """The events of a stream; comments, and an event that broke off, are left out."""
    frame = Frame()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if frame.data:
                yield frame
            frame = Frame()
        elif name == "data":
            frame.data.append(value)
        elif name == "event":
            frame.event = value
        elif name == "id":
            frame.id = value
