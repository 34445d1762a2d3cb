"""A starting mixture from entropies, before anything is trained.

    r_i = exp(H_i / temperature) / sum_j exp(H_j / temperature),  H in nats

Source: arXiv 2405.14908, eq. 13, where the temperature is 1. A domain that is one nat
harder gets e times the share. Domain sizes play no part: bound the epochs in the solver.
"""

from collections.abc import Mapping
from math import exp, isfinite

from mixlab.errors import InvalidMixture
from mixlab.mixture import Mixture


def softmax_mixture(entropies: Mapping[str, float], temperature: float = 1.0) -> Mixture:
    """The softmax of entropies in nats by domain.

    Raises InvalidMixture for no domain, an entropy that is not finite, or a temperature
    that is not positive.
    """
    if not isfinite(temperature) or temperature <= 0:
        raise InvalidMixture(f"The temperature must be a positive number, not {temperature}.")
    for name, value in entropies.items():
        if not isfinite(value):
            raise InvalidMixture(
                f"The entropy of {name!r} is {value}; measure the domain again, or leave it out."
            )
    # Less the largest, so that exp can't overflow.
    top = max(entropies.values(), default=0.0)
    return Mixture.normalised(
        {name: exp((value - top) / temperature) for name, value in entropies.items()}
    )
