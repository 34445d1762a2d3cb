"""Validation windows: the same for every run, spread evenly, padded where text is short."""

import math

import numpy as np
import pytest
import torch

from mixlab.errors import DomainTooSmall
from mixlab.training.evaluation import Validation
from mixlab.training.head import IGNORED, token_losses
from mixlab.training.parallel import World


class Stream:
    def __init__(self, tokens: list[int] | np.ndarray) -> None:
        self.tokens = np.asarray(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        return self.tokens[starts[:, None] + np.arange(length)].astype(np.int64)


def test_windows_are_spread_evenly_and_at_most_what_was_asked() -> None:
    found = Validation({"a": Stream(np.arange(1001))}, context=10, tokens_per_domain=40)
    assert found.inputs[:, 0].tolist() == [0, 250, 500, 750]
    assert found.tokens == {"a": 40}
    assert torch.equal(found.targets, found.inputs + 1)


def test_a_short_domain_gives_what_it_has() -> None:
    streams = {"long": Stream(np.arange(500)), "some": Stream(range(35)), "short": Stream(range(4))}
    found = Validation(streams, context=10, tokens_per_domain=100)
    assert found.tokens == {"long": 100, "some": 30, "short": 3}
    assert found.targets[-1].tolist() == [1, 2, 3, *[IGNORED] * 7]
    assert found.inputs.min() >= 0


@pytest.mark.parametrize("sequences", [1, 3, 4, 100])
def test_losses_are_means_per_token_of_each_domain(sequences: int) -> None:
    """A model that gives token 1 half of the mass and shares the rest, whatever it reads."""
    streams = {"ones": Stream(np.ones(50)), "mixed": Stream([1, 2] * 30), "short": Stream([2, 2])}
    weight = torch.tensor([[math.log(0.25)], [math.log(0.5)], [math.log(0.25)]])
    found = Validation(streams, context=6, tokens_per_domain=40)

    def each(tokens: torch.Tensor) -> torch.Tensor:
        features, targets = torch.ones(tokens[:, 1:].numel(), 1), tokens[:, 1:].flatten()
        return token_losses(features, weight, targets).view(len(tokens), -1)

    losses = found.losses(each, World.alone(torch.device("cpu")), sequences=sequences)
    assert losses == pytest.approx(
        {"ones": math.log(2), "mixed": math.log(2) * 1.5, "short": math.log(4)}, abs=1e-6
    )


def test_a_domain_without_validation_text_is_named() -> None:
    with pytest.raises(DomainTooSmall, match="'empty' has 1 validation tokens"):
        Validation({"empty": Stream([1])}, context=5, tokens_per_domain=40)
