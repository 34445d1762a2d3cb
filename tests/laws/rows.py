"""Random rows and plausible parameters for any law, by seed."""

import numpy as np

from mixlab.laws import Inputs, Law, Parameter

DOMAINS = ("books", "code", "news", "wiki")


def rows(seed: int, *, own: int | None = 1, count: int = 60, zeros: bool = False) -> Inputs:
    """Rows of several mixtures, steps, sizes and amounts of unique tokens."""
    rng = np.random.default_rng(seed)
    proportions = rng.dirichlet(np.ones(len(DOMAINS)), size=count)
    if zeros:
        proportions[rng.random(proportions.shape) < 0.3] = 0.0
        proportions[:, 2] += proportions.sum(axis=1) == 0
        proportions /= proportions.sum(axis=1, keepdims=True)
    steps = 10 ** rng.uniform(9, 11, count)
    unique = steps * rng.choice([0.05, 0.3, 1.0], count)
    return Inputs(proportions, steps, own, 10 ** rng.uniform(7.5, 10, count), unique)


def parameters(law: Law, own: int | None) -> tuple[Parameter, ...]:
    return law.parameters(DOMAINS, own)


def plausible(law: Law, inputs: Inputs, seed: int) -> np.ndarray:
    """Values near a start of the law on made-up losses, within the bounds."""
    rng = np.random.default_rng(seed)
    own = 0 if inputs.own is None else inputs.own
    amount = 0.1 + 0.9 * inputs.proportions[:, own]
    losses = amount**-0.2 * (1.5 + 40 * inputs.steps**-0.2 + 20 * inputs.params**-0.2)
    found = law.starts(inputs, losses * np.exp(rng.normal(0, 0.02, len(losses))))
    values = np.array(found[rng.integers(len(found))])
    for index, parameter in enumerate(parameters(law, inputs.own)):
        moved = rng.normal(0, 0.3)
        value = values[index] + moved if parameter.signed else values[index] * np.exp(moved)
        values[index] = np.clip(value, parameter.lower, parameter.upper)
    return values
