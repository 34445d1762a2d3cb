"""Random mixture schedules, for property tests."""

from hypothesis import strategies as st

from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule, Stage

NAMES = tuple(f"d{i}" for i in range(6))


@st.composite
def mixtures_of_some(draw: st.DrawFn) -> Mixture:
    """A mixture of some of six domains, even or very uneven, shares of 0 among them."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    weights = [draw(st.sampled_from([0.0, 1e-6, 0.1, 1.0]) | st.floats(0, 1)) for _ in names]
    if sum(weights) < 1e-9:
        weights[0] = 1.0
    return Mixture.normalised(dict(zip(names, weights, strict=True)))


@st.composite
def schedules(draw: st.DrawFn, longest: int = 1500) -> MixtureSchedule:
    """One to five stages of 1 to `longest` tokens, each with or without a ramp."""
    lengths = draw(st.lists(st.integers(1, longest), max_size=4))
    stages = []
    for number, tokens in enumerate([*lengths, None]):
        most = (longest if tokens is None else tokens) if number else 0
        ramp = draw(st.sampled_from([0, most]) | st.integers(0, most))
        stages.append(Stage(draw(mixtures_of_some()), tokens, ramp))
    return MixtureSchedule(tuple(stages))
