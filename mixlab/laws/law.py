"""What a law is: a formula for one target's loss, with what fitting needs to know about it.

A law is a frozen value of pure functions over arrays. It sees whole mixtures, steps and
model sizes; it sees no files, no clock and no chance. Its functions are vectorised over
any number of parameter vectors at once, so that starts, cross-validation and bootstrap are
one batch: `values` may have leading axes, (..., parameter), which the answers keep.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mixlab.mixture import Array

Mask = npt.NDArray[np.bool_]
Residual = Literal["process", "trees"]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    A positive parameter is fitted as its logarithm between `lower` and `upper`, a `signed` one
    as it is; `limit` is the value that it takes when the data push it to nothing. Told apart
    only where the data hold that many distinct own shares, steps and model sizes. A `shrunk`
    parameter is drawn toward `centre` as by a Gaussian prior with the standard deviation
    `spread`: the penalty is strength * noise^2 * ((z - centre) / spread)^2, with z the parameter
    as it is fitted; a strength of 1 is the prior itself, and cross-validation may change it.
    """

    name: str
    lower: float
    upper: float
    limit: float = 0.0
    unit: str = "1"  # "1" has none
    signed: bool = False
    shrunk: bool = False
    centre: float = 0.0  # of z: of the logarithm, unless signed
    spread: float = 1.0  # of z
    distinct_shares: int = 1
    distinct_steps: int = 1
    distinct_sizes: int = 1


@dataclass(frozen=True)
class Inputs:
    """What a law sees of each row."""

    proportions: Array  # (row, domain)
    steps: Array  # (row,), in the observations' step variable
    own: int | None  # column of the domain that the target is named after, if there is one
    params: Array  # (row,), parameters of the model that was trained; NaN where unknown
    unique_tokens: Array  # (row,), tokens in the training data before repeats; NaN where unknown

    @property
    def own_share(self) -> Array:
        """The own domain's share, shape (row,). Only for laws with `needs_own_share`."""
        return np.asarray(self.proportions[:, self.own], dtype=float)

    def take(self, rows: Mask) -> "Inputs":
        """The rows where the mask holds."""
        return Inputs(
            self.proportions[rows],
            self.steps[rows],
            self.own,
            self.params[rows],
            self.unique_tokens[rows],
        )


@dataclass(frozen=True)
class Law:
    """A formula for one target's loss in nats per token.

    `predict(values, inputs)` gives (..., row), `gradient(values, inputs)` its derivative by each
    parameter, (..., row, parameter), `share_gradient(values, inputs)` by each domain's share as
    if shares were free, (..., row, domain). `starts(inputs, losses)` gives (start, parameter),
    best first. `usable(inputs)` marks the rows on which the law is defined. `source_form` gives
    the parameters as the law's source writes them. Where at a fixed step the loss is coefficient *
    own share ** -exponent, `power_law(values, step)` gives (coefficient, exponent). Where it has
    such numbers, `worth(values, own)` gives what a token of each domain is worth, (..., domain), in
    tokens of the own domain.

    `parameters(domains, own)` depends on the domains' names and the target's own column. `convex`
    claims that the loss is convex in the shares for every value within the bounds,
    `falls_with_step` that it never rises with the step, `zero_shares` that it is finite where a
    share is 0; the conformance suite holds laws to their claims. `residual` names what is fitted
    to the log residuals that the formula leaves.

    Where the law adds to a simpler one, `inner` is that law, and `outward(values, inputs)` gives
    starts, (start, parameter), from the inner law's fitted values; without, searches of many
    parameters end in valleys. `centres(inputs)` gives the centres of shrunk parameters whose
    natural size depends on the data's, by name.
    """

    name: str
    formula: str
    source: str
    validity: str  # where the law may be believed, in words
    parameters: Callable[[tuple[str, ...], int | None], tuple[Parameter, ...]]
    predict: Callable[[Array, Inputs], Array]
    gradient: Callable[[Array, Inputs], Array]
    share_gradient: Callable[[Array, Inputs], Array]
    starts: Callable[[Inputs, Array], Array]
    usable: Callable[[Inputs], Mask]
    source_form: Callable[[Array], Mapping[str, float]]
    minimum_mixtures: int
    convex: bool
    falls_with_step: bool
    zero_shares: bool
    power_law: Callable[[Array, float], tuple[float, float]] | None = None
    worth: Callable[[Array, int | None], Array] | None = None
    needs_own_share: bool = False
    needs_mixture: bool = True  # false for laws that see sizes and tokens alone
    needs_params: bool = False
    needs_unique_tokens: bool = False
    residual: Residual | None = None
    inner: "Law | None" = None
    outward: Callable[[Array, Inputs], Array] | None = None
    centres: Callable[[Inputs], Mapping[str, float]] | None = None

    @property
    def per_token(self) -> bool:
        """Whether its step variable must be tokens, as in laws that compare model sizes."""
        return self.needs_params
