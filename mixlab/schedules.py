"""Mixture schedules: which mixture a run trains on, by the tokens that it has seen.

    constant   one mixture
    staged     one after another, each for its tokens
    ramp       the shares move linearly from the stage before to this one

A stage lasts `tokens` (the last one for ever); over its first `ramp_tokens` the shares are

    shares = before + (own - before) * seen / ramp_tokens.

TinyLlama v1.1 was trained so: a basic stage, then new domains whose shares rise over 6B tokens
(model card of TinyLlama_v1.1). Tokens, not steps, so that the schedule doesn't depend on the
size of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mixlab.errors import InvalidMixture
from mixlab.mixture import Mixture


@dataclass(frozen=True)
class Stage:
    """One mixture of a schedule."""

    mixture: Mixture
    tokens: int | None = None  # how long it lasts; None for the last one
    ramp_tokens: int = 0  # of these, how many move the shares from the stage before


@dataclass(frozen=True)
class MixtureSchedule:
    """Stages in their order. Raises InvalidMixture for one that can't be followed."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise InvalidMixture("A mixture schedule needs at least one stage.")
        for number, stage in enumerate(self.stages, start=1):
            self._check(number, stage)

    def _check(self, number: int, stage: Stage) -> None:
        last = number == len(self.stages)
        if last != (stage.tokens is None):
            raise InvalidMixture(
                f"Stage {number} of {len(self.stages)} lasts {stage.tokens} tokens; give every "
                "stage but the last its tokens, and the last none."
            )
        if stage.tokens is not None and stage.tokens < 1:
            raise InvalidMixture(f"Stage {number} lasts {stage.tokens} tokens; give at least 1.")
        longest = stage.ramp_tokens if stage.tokens is None else stage.tokens
        if not 0 <= stage.ramp_tokens <= longest:
            raise InvalidMixture(
                f"Stage {number} has a ramp of {stage.ramp_tokens} tokens; give 0 to {longest}."
            )
        if number == 1 and stage.ramp_tokens:
            raise InvalidMixture(
                "The first stage has no stage before it to ramp from; give it a ramp of 0."
            )

    @classmethod
    def of(cls, mixture: "Mixture | MixtureSchedule") -> "MixtureSchedule":
        """A mixture as a schedule of one stage; a schedule as it is."""
        return mixture if isinstance(mixture, cls) else cls((Stage(mixture),))  # type: ignore[arg-type]

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that any stage gives a share, by name."""
        return tuple(sorted({d for stage in self.stages for d, share in stage.mixture if share}))

    def shares(self, seen_tokens: int) -> dict[str, float]:
        """The share of each domain once so many tokens were seen."""
        before, begin = self.stages[0].mixture, 0
        for stage in self.stages:
            if stage.tokens is None or seen_tokens < begin + stage.tokens:
                break
            before, begin = stage.mixture, begin + stage.tokens
        done = 1.0 if not stage.ramp_tokens else min(1.0, (seen_tokens - begin) / stage.ramp_tokens)
        old, new = dict(before), dict(stage.mixture)
        return {d: (1 - done) * old.get(d, 0.0) + done * new.get(d, 0.0) for d in self.domains}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        return {
            "stages": [
                {
                    "proportions": dict(stage.mixture.proportions),
                    "tokens": stage.tokens,
                    "ramp_tokens": stage.ramp_tokens,
                }
                for stage in self.stages
            ]
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote. Raises InvalidMixture for anything else."""
        try:
            stages: Sequence[Mapping[str, Any]] = value["stages"]
            return cls(
                tuple(
                    Stage(Mixture(one["proportions"]), one.get("tokens"), one.get("ramp_tokens", 0))
                    for one in stages
                )
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise InvalidMixture(
                f"A mixture schedule is {{'stages': [{{'proportions': ..., 'tokens': ..., "
                f"'ramp_tokens': ...}}]}}, not {value!r:.200} ({problem!r})."
            ) from problem
