"""What a law is: a formula for one target's loss, with what fitting needs to know about it.

A law is a frozen value of pure functions over arrays. It sees whole mixtures,
steps and model sizes, so that laws with cross-domain terms or a size term fit
the same frame; it sees no files, no clock and no chance.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixlab.mixture import Array

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    A positive parameter is fitted as its logarithm between `lower` and `upper`; its
    `limit` is the value that it takes when the data push it to nothing. Told apart
    only where the data hold that many distinct own shares and steps.
    """

    name: str
    lower: float
    upper: float
    limit: float = 0.0
    distinct_shares: int = 1
    distinct_steps: int = 1


@dataclass(frozen=True)
class Inputs:
    """What a law sees of each row."""

    proportions: Array  # (row, domain)
    steps: Array  # (row,), in the observations' step variable
    own: int | None  # column of the domain that the target is named after, if there is one
    params: Array  # (row,), parameters of the model that was trained; NaN where unknown

    @property
    def own_share(self) -> Array:
        """The own domain's share, shape (row,). Only for laws with `needs_own_share`."""
        return np.asarray(self.proportions[:, self.own], dtype=float)

    def take(self, rows: Mask) -> "Inputs":
        """The rows where the mask holds."""
        return Inputs(self.proportions[rows], self.steps[rows], self.own, self.params[rows])


@dataclass(frozen=True)
class Law:
    """A formula for one target's loss in nats per token.

    `predict(values, inputs)` gives (row,), `gradient(values, inputs)` its derivative by each
    parameter, (row, parameter); `starts(inputs, losses)` gives (start, parameter), best first.
    `usable(inputs)` marks the rows on which the law is defined. `source_form` gives the
    parameters as the law's source writes them. Where at a fixed step the loss is
    coefficient * own share ** -exponent, `power_law(values, step)` gives (coefficient, exponent).
    """

    name: str
    formula: str
    source: str
    parameters: Callable[[tuple[str, ...]], tuple[Parameter, ...]]  # of the domains' names
    predict: Callable[[Array, Inputs], Array]
    gradient: Callable[[Array, Inputs], Array]
    starts: Callable[[Inputs, Array], Array]
    usable: Callable[[Inputs], Mask]
    source_form: Callable[[Array], Mapping[str, float]]
    power_law: Callable[[Array, float], tuple[float, float]] | None
    needs_own_share: bool
    minimum_mixtures: int
