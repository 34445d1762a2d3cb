"""Observations: what training runs measured, as aligned arrays.

One row is one evaluation of one run: its mixture, the step (or tokens), and a
loss in nats per token for each target. Targets are named like domains where
they are validation sets of training domains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixlab.errors import InvalidTable
from mixlab.mixture import Array, Mixture


@dataclass(frozen=True)
class Observation:
    """One evaluation of one run: losses in nats per token by target."""

    run: str
    mixture: Mixture
    step: int
    tokens: int
    losses_nats: Mapping[str, float]
    params: int | None = None
    unique_tokens: int | None = None  # in the training data, before any is repeated


@dataclass(frozen=True)
class Observations:
    """Aligned arrays over rows; NaN marks a loss that was not measured."""

    runs: tuple[str, ...]  # (row,)
    domains: tuple[str, ...]
    targets: tuple[str, ...]
    proportions: Array  # (row, domain), rows sum to 1
    steps: Array  # (row,), weight updates; equal to tokens where no step is known
    tokens: Array  # (row,), NaN where unknown
    losses_nats: Array  # (row, target)
    params: Array  # (row,), NaN where unknown
    unique_tokens: Array  # (row,), in the training data before repeats; NaN where unknown

    def __post_init__(self) -> None:
        rows = len(self.runs)
        shapes = {
            "proportions": (self.proportions.shape, (rows, len(self.domains))),
            "steps": (self.steps.shape, (rows,)),
            "tokens": (self.tokens.shape, (rows,)),
            "losses_nats": (self.losses_nats.shape, (rows, len(self.targets))),
            "params": (self.params.shape, (rows,)),
            "unique_tokens": (self.unique_tokens.shape, (rows,)),
        }
        for name, (found, expected) in shapes.items():
            if found != expected:
                raise InvalidTable(f"{name} has shape {found}; {rows} rows need {expected}.")

    def __len__(self) -> int:
        return len(self.runs)

    @classmethod
    def of(cls, rows: Sequence[Observation]) -> "Observations":
        """Rows of observations as arrays; domains and targets in order of first appearance.

        Raises InvalidTable where there is no row.
        """
        if not rows:
            raise InvalidTable("There are no observations; train proxy runs or give a table first.")
        domains = tuple(dict.fromkeys(d for row in rows for d in row.mixture.domains))
        targets = tuple(dict.fromkeys(t for row in rows for t in row.losses_nats))
        return cls(
            runs=tuple(row.run for row in rows),
            domains=domains,
            targets=targets,
            proportions=np.array([row.mixture.shares(domains) for row in rows]),
            steps=np.array([row.step for row in rows], dtype=float),
            tokens=np.array([row.tokens for row in rows], dtype=float),
            losses_nats=np.array(
                [[row.losses_nats.get(t, np.nan) for t in targets] for row in rows]
            ),
            params=_known([row.params for row in rows]),
            unique_tokens=_known([row.unique_tokens for row in rows]),
        )

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens of one step, 1 where tokens are the step; None where rows disagree or don't tell.

        Rows agree within a thousandth, as rounded tables do.
        """
        ratios = self.tokens / self.steps
        known = ratios[np.isfinite(ratios)]
        if not len(known) or np.ptp(known) > 1e-3 * known.min():
            return None
        return float(known[0])

    def take(self, rows: Sequence[int] | np.ndarray) -> "Observations":
        """The given rows, by index or by mask."""
        index = np.arange(len(self))[np.asarray(rows)]
        return Observations(
            runs=tuple(self.runs[i] for i in index),
            domains=self.domains,
            targets=self.targets,
            proportions=self.proportions[index],
            steps=self.steps[index],
            tokens=self.tokens[index],
            losses_nats=self.losses_nats[index],
            params=self.params[index],
            unique_tokens=self.unique_tokens[index],
        )

    def only(self, targets: Sequence[str]) -> "Observations":
        """The same rows with these targets alone."""
        columns = [self.targets.index(name) for name in targets]
        return replace(self, targets=tuple(targets), losses_nats=self.losses_nats[:, columns])

    def in_tokens(self) -> "Observations":
        """The same with tokens as the step variable, as laws over model sizes need.

        Raises InvalidTable where a row's tokens are unknown.
        """
        unknown = np.flatnonzero(np.isnan(self.tokens))
        if len(unknown):
            raise InvalidTable(
                f"Run {self.runs[unknown[0]]!r} has no tokens ({len(unknown)} such rows); steps "
                "can't be compared across model sizes; add a column 'tokens'."
            )
        return replace(self, steps=self.tokens)

    def mixture_index(self) -> np.ndarray:
        """For each row the number of its distinct mixture, shape (row,).

        Checkpoints, sizes and repeated seeds of one mixture share a number, so that a
        hold-out by this number never leaks a mixture into both sides. Without domains, as in
        tables for laws of size and tokens alone, each run has its own.
        """
        if not self.domains:
            return np.unique(np.array(self.runs), return_inverse=True)[1].reshape(-1)
        keys = np.round(self.proportions, 9)
        return np.asarray(np.unique(keys, axis=0, return_inverse=True)[1]).reshape(-1)


def _known(values: Sequence[int | None]) -> Array:
    """Numbers as an array, NaN where unknown."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)
