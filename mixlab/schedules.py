"""Mixture schedules: which mixture a run trains on, by the tokens that it has seen.

    constant   one mixture
    staged     one after another, each for its tokens
    ramp       the shares move linearly from the stage before to this one

A stage lasts `tokens` (the last one for ever); over its first `ramp_tokens` the shares are

    shares = before + (own - before) * seen / ramp_tokens,

where `seen` counts from the stage's begin. So a schedule is a row of spans, in each of which
shares are linear in tokens. The sequence that begins after `seen` tokens takes its domain by the
shares at `seen`, wherever steps end (mixlab/corpora/turns.py).

TinyLlama v1.1 was trained so: a basic stage, then new domains whose shares rise over 6B tokens
(model card of TinyLlama_v1.1). Tokens, not steps, so that the schedule doesn't depend on the
size of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixlab.errors import InvalidMixture
from mixlab.mixture import Array, Mixture

MOST_TOKENS = 2**63 - 1  # what 64 bits count


@dataclass(frozen=True)
class Stage:
    """One mixture of a schedule."""

    mixture: Mixture
    tokens: int | None = None  # how long it lasts; None for the last one
    ramp_tokens: int = 0  # of these, how many move the shares from the stage before


@dataclass(frozen=True)
class Span:
    """Tokens over which shares move linearly from `before` to `after`, or stay where both are one.

    `end_tokens` is None for the last one, whose shares stay.
    """

    begin_tokens: int
    end_tokens: int | None
    before: Mixture
    after: Mixture

    def shares(self, seen_tokens: int, domains: Sequence[str]) -> Array:
        """The share of each domain once so many tokens of the run were seen, shape (domain,)."""
        old, new = self.before.shares(domains), self.after.shares(domains)
        if self.end_tokens is None:
            return new
        done = (seen_tokens - self.begin_tokens) / (self.end_tokens - self.begin_tokens)
        return (1 - done) * old + done * new


@dataclass(frozen=True)
class MixtureSchedule:
    """Stages in their order. Raises InvalidMixture for one that can't be followed."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise InvalidMixture("A mixture schedule needs at least one stage.")
        for number, stage in enumerate(self.stages, start=1):
            self._check(number, stage)
        tokens = sum((stage.tokens or stage.ramp_tokens) for stage in self.stages)
        if tokens > MOST_TOKENS:
            raise InvalidMixture(f"A schedule of {tokens} tokens is longer than anything counts.")

    def _check(self, number: int, stage: Stage) -> None:
        for tokens in (stage.tokens or 0, stage.ramp_tokens):
            if not isinstance(tokens, int) or isinstance(tokens, bool):
                raise InvalidMixture(
                    f"Stage {number} counts {tokens!r} tokens; tokens are whole numbers."
                )
        if (number == len(self.stages)) != (stage.tokens is None):
            raise InvalidMixture(
                f"Stage {number} of {len(self.stages)} lasts {stage.tokens} tokens; give every "
                "stage but the last its tokens, and the last none."
            )
        if stage.tokens is not None and stage.tokens < 1:
            raise InvalidMixture(f"Stage {number} lasts {stage.tokens} tokens; give at least 1.")
        self._check_ramp(number, stage)

    def _check_ramp(self, number: int, stage: Stage) -> None:
        longest = MOST_TOKENS if stage.tokens is None else stage.tokens
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

    def spans(self) -> tuple[Span, ...]:
        """The pieces of the schedule in their order, none of them empty."""
        found, begin, before = [], 0, self.stages[0].mixture
        for stage in self.stages:
            settled = begin + stage.ramp_tokens
            end = None if stage.tokens is None else begin + stage.tokens
            if settled > begin:
                found.append(Span(begin, settled, before, stage.mixture))
            if end is None or end > settled:
                found.append(Span(settled, end, stage.mixture, stage.mixture))
            begin, before = end or 0, stage.mixture
        return tuple(found)

    def shares(self, seen_tokens: int) -> dict[str, float]:
        """The share of each domain once so many tokens were seen."""
        spans = self.spans()
        here = next(s for s in spans if s.end_tokens is None or seen_tokens < s.end_tokens)
        return dict(zip(self.domains, here.shares(seen_tokens, self.domains).tolist(), strict=True))

    def planned(self, tokens: int) -> dict[str, float]:
        """Tokens of each domain among the first so many: the integral of the shares."""
        total = np.zeros(len(self.domains))
        for span in self.spans():
            end = tokens if span.end_tokens is None else min(tokens, span.end_tokens)
            if end > span.begin_tokens:
                # Shares are linear, so that their mean is the one halfway.
                first, last = (span.shares(at, self.domains) for at in (span.begin_tokens, end))
                total += (first + last) / 2 * (end - span.begin_tokens)
        return dict(zip(self.domains, total.tolist(), strict=True))

    def mean(self, tokens: int) -> Mixture:
        """The mixture that the first so many tokens have together; tokens at least 1."""
        return Mixture.normalised(self.planned(tokens))

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
        """What `to_dict` wrote, or what people write: stages, or the shares of one mixture.

        Raises InvalidMixture for anything else.
        """
        try:
            stages = value.get("stages", [{"proportions": value}])
            return cls(tuple(_stage(one) for one in stages))
        except (KeyError, TypeError, AttributeError) as problem:
            raise InvalidMixture(
                "A mixture schedule is the shares by domain, or {'stages': [{'proportions': ..., "
                f"'tokens': ..., 'ramp_tokens': ...}}]}}, not {value!r:.200} ({problem!r})."
            ) from problem


def _stage(value: Mapping[str, Any]) -> Stage:
    strange = sorted(set(value) - {"proportions", "tokens", "ramp_tokens"})
    if strange:
        raise InvalidMixture(
            f"A stage has no {', '.join(strange)}; it has proportions, tokens and ramp_tokens."
        )
    tokens, ramp_tokens = _whole(value.get("tokens")), _whole(value.get("ramp_tokens", 0))
    return Stage(Mixture(value["proportions"]), tokens, ramp_tokens or 0)


def _whole(tokens: Any) -> Any:
    # JSON's 6e9 is a float.
    return int(tokens) if isinstance(tokens, float) and tokens.is_integer() else tokens
