"""What a fit says of one mixture: each target's loss with its 95% prediction interval."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite

import numpy as np

from mixlab.errors import InvalidMixture
from mixlab.fitting import Fit
from mixlab.fitting.seen import outside_seen
from mixlab.mixture import Mixture


@dataclass(frozen=True)
class Prediction:
    """A loss in nats per token, and where a new run's measured loss lies 95 times in 100."""

    nats: float
    low95: float
    high95: float

    def to_dict(self) -> dict[str, float]:
        """A JSON-ready form."""
        return asdict(self)


def notes_on(
    fit: Fit,
    mixture: Mixture,
    step: float,
    predicted: Mapping[str, Prediction],
    *,
    params: float | None = None,
) -> list[str]:
    """What a reader of these predictions should know: what is missing, and what is far."""
    silent = [name for name in fit.targets if name not in predicted]
    notes = [f"{name} can't be predicted at these shares" for name in silent]
    return notes + outside_seen(fit, mixture.proportions, step=step, params=params)


def predictions(
    fit: Fit, mixture: Mixture, step: float, *, params: float | None = None
) -> dict[str, Prediction]:
    """By target, of those whose law is defined at the mixture's shares.

    Raises InvalidMixture for a domain that the fit does not know, and InvalidBudget for a step or a
    model size that is none or that a law needs and is not given.
    """
    strange = [name for name, share in mixture if share > 0 and name not in fit.domains]
    if strange and fit.domains:
        raise InvalidMixture(
            f"The fit knows no domain {', '.join(map(repr, strange))}; it was made on "
            f"{', '.join(fit.domains)}."
        )
    shares = np.array([[mixture.proportions.get(name, 0.0) for name in fit.domains]])
    losses = fit.losses(shares, step, params=params)[0]
    with np.errstate(all="ignore"):
        widths = fit.interval_widths(shares, step, params)[0]
        low, high = losses * np.exp(-widths), losses * np.exp(widths)
    rows = zip(fit.targets, losses.tolist(), low.tolist(), high.tolist(), strict=True)
    # An interval may be too wide for numbers: nothing is known of the target then.
    return {name: Prediction(*row) for name, *row in rows if all(map(isfinite, row))}
