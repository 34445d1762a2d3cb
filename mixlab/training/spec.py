"""A training run as one JSON file: what every process of it reads, on every host.

    {"corpus": folder, "recipe": {...}, "schedule": {"stages": [...]}, "folder": folder, "seed": 0,
     ...}

The same file trains alone, under torchrun and in a job. Paths that are not absolute count from
the file's own folder, so that a run's folder can be moved as a whole.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from mixlab.errors import InvalidRecipe, MissingFile, TruncatedFile
from mixlab.recipes import Recipe
from mixlab.recipes.shape import whole
from mixlab.schedules import MixtureSchedule
from mixlab.training.beginning import Beginning, check_alone
from mixlab.training.branches import Branch
from mixlab.training.trackers import check_trackers

SPEC = "spec.json"  # the file in the run's folder
SHARDINGS = ("auto", "replicate", "shard")


@dataclass(frozen=True)
class RunSpec:
    """All that decides a training run, and where it goes.

    Raises InvalidRecipe for options that can't be followed, MissingExtra for trackers that aren't
    installed.
    """

    corpus: Path  # folder of a tokenised corpus
    recipe: Recipe
    schedule: MixtureSchedule
    folder: Path  # checkpoints, weights, metrics
    seed: int = 0
    threads: int | None = None  # CPU threads of each process
    checkpoint_seconds: float = 30.0
    keep_last: int = 2  # checkpoints, beside milestones
    milestones: tuple[int, ...] = ()  # steps whose checkpoints are kept for ever
    trackers: tuple[str, ...] = ()
    sharding: Literal["auto", "replicate", "shard"] = "auto"  # of weights over processes
    max_epochs: float | None = None  # the run stops before a domain is read more often
    start: Branch | None = None  # the run of which this is a branch
    beginning: Beginning | None = None  # the weights that it begins with; never beside `start`
    drawn: Path | None = None  # a drawn set: the windows of the corpus that alone are trained on
    events: Path | None = None  # a file or named pipe that gets the run's events

    def __post_init__(self) -> None:
        check_trackers(self.trackers, self.folder)
        if self.sharding not in SHARDINGS:
            raise InvalidRecipe(f"sharding is auto, replicate or shard, not {self.sharding!r}.")
        self._check_numbers()
        check_alone(self.start, self.beginning)
        if not self.checkpoint_seconds >= 0:
            raise InvalidRecipe(
                f"checkpoint_seconds must be at least 0, not {self.checkpoint_seconds}."
            )
        if self.max_epochs is not None and not self.max_epochs > 0:
            raise InvalidRecipe(f"max_epochs must be above 0, not {self.max_epochs}.")

    def _check_numbers(self) -> None:
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            if name == "threads" and value is None:
                continue
            if not whole(value, low) or value > high:
                raise InvalidRecipe(
                    f"{name} must be a whole number from {low} to {high}, not {value!r}."
                )
        recipe = self.recipe if self.start is None else self.start.recipe(self.recipe)
        for step in self.milestones:
            if not whole(step, 1) or step > recipe.steps:
                raise InvalidRecipe(
                    f"A milestone is one of the run's updates, 1 to {recipe.steps}, not {step!r}."
                )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        paths = {name: None if plain[name] is None else str(plain[name]) for name in _PATHS}
        start = self.start and {**vars(self.start), "folder": str(self.start.folder)}
        begin = self.beginning and {
            **vars(self.beginning), "weights": str(self.beginning.weights)
        }  # fmt: skip
        return {
            **plain, **paths,
            "recipe": self.recipe.to_dict(),
            "schedule": self.schedule.to_dict(),
            "start": start,
            "beginning": begin,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], base: Path = Path()) -> Self:
        """What `to_dict` wrote; paths count from `base`.

        Raises InvalidRecipe for a field that is missing, unknown or of the wrong kind, and
        InvalidMixture for a schedule that is none.
        """
        try:
            return cls(**_fields(dict(value), base))
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise InvalidRecipe(
                f"A run is described by {', '.join(field.name for field in fields(cls))}; "
                f"what was given can't be read: {type(problem).__name__}: {problem}."
            ) from problem

    @property
    def file(self) -> Path:
        """Where the spec lies in the run's folder."""
        return self.folder / SPEC

    def write(self, path: Path) -> Path:
        """Write the spec as JSON; it appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """A spec from its file.

        Raises MissingFile, TruncatedFile for what is no JSON, and what `from_dict` raises.
        """
        if not path.is_file():
            raise MissingFile(f"There is no run's spec {path}; `mixlab train` writes one.")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise TruncatedFile(
                f"{path} is no JSON: {problem}. Delete it; `mixlab train` writes it again."
            ) from problem
        if not isinstance(value, dict):
            raise InvalidRecipe(f"{path} holds a {type(value).__name__}, not a run's description.")
        return cls.from_dict(value, path.absolute().parent)


# Seeds beyond are none of torch's; so many threads are a slip, and a hundred thousand a crash.
_WHOLE = {"keep_last": (1, 10**9), "seed": (0, 2**63 - 1), "threads": (1, 1024)}
_PATHS = ("corpus", "folder", "events", "drawn")


def _fields(value: dict[str, Any], base: Path) -> dict[str, Any]:
    """The fields of a spec from JSON's values."""
    read = {
        "corpus": base / value.pop("corpus"),
        "recipe": Recipe.from_dict(value.pop("recipe")),
        "schedule": MixtureSchedule.from_dict(value.pop("schedule")),
        "folder": base / value.pop("folder"),
    }
    for name in ("events", "drawn"):
        if value.get(name) is not None:
            value[name] = base / value[name]
    if value.get("start") is not None:
        start = value["start"]
        value["start"] = Branch(**{**start, "folder": base / start["folder"]})
    if value.get("beginning") is not None:
        begin = value["beginning"]
        value["beginning"] = Beginning(**{**begin, "weights": base / begin["weights"]})
    for name in ("milestones", "trackers"):
        value[name] = tuple(value.get(name) or ())
    return {**value, **read}
