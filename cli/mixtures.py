"""Reading a mixture, or a schedule of mixtures, as commands take it.

code=0.4,web=0.6                        on the command line
FILE, or JSON on the command line       {"code": 0.4, "web": 0.6}
                                        {"stages": [{"proportions": ..., "tokens": ...}, ...]}
                                        what `mixlab fit --json` and `solve --json` print
                                        what GET /mixtures/{id} answers
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.questions import mixture
from mixlab.errors import InvalidMixture, MissingFile, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule

# Where a mixture stands in an answer of a command or of the service, outermost first.
PLACES = ("schedule", "solution", "mixture", "proportions")


def schedule(given: str, option: str = "--mixture") -> MixtureSchedule:
    """The schedule that a command was given; a mixture is a schedule of one stage.

    Raises typer.BadParameter for what can't be read, MissingFile and TruncatedFile for a file
    that can't, and InvalidMixture for shares that are none.
    """
    text = given.strip()
    if text.startswith("{"):
        return _schedule_in(_parsed(text, option), option)
    path = Path(text)
    if path.is_file():
        return _schedule_in(_parsed(path.read_bytes(), str(path)), str(path))
    if "=" in text:
        return MixtureSchedule.of(Mixture(mixture(text, option)))
    raise MissingFile(
        f"{option} {given}: there is no such file; give one, JSON, or shares as code=0.4,web=0.6."
    )


def _parsed(text: str | bytes, where: str) -> Mapping[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidMixture(f"{where} gives {twice!r} twice; give each domain one share.")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=once)
    except ValueError as problem:
        raise TruncatedFile(f"{where} is no JSON: {problem}.") from problem
    if not isinstance(value, dict):
        raise InvalidMixture(f"{where} holds a {type(value).__name__}, not a mixture.")
    return value


def _schedule_in(value: Mapping[str, Any], where: str) -> MixtureSchedule:
    """The schedule within an answer, however deep it lies."""
    if "stages" in value:
        return MixtureSchedule.from_dict(value)
    for place in PLACES:
        if isinstance(value.get(place), dict):
            return _schedule_in(value[place], where)
    if not value or not all(_is_number(share) for share in value.values()):
        raise InvalidMixture(
            f"{where} has no mixture: no shares by domain, no stages, and none of "
            f"{', '.join(PLACES)}."
        )
    return MixtureSchedule.of(Mixture({name: float(share) for name, share in value.items()}))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
