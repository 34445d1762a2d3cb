"""Validation loss per domain: mean nats per token on the same windows for every run.

Windows of the recipe's context are spread evenly over a domain's validation stream, at most
`evaluation_tokens` of them in tokens, at most what exists. They depend on the corpus and the
recipe's shape alone, so that the losses of two runs differ by their weights only.
Limits: a window's first tokens have little context, as in training.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from mixlab.corpora.sampling import TokenWindows
from mixlab.errors import DomainTooSmall
from mixlab.training.head import IGNORED, token_losses

Features = Callable[[Tensor], Tensor]


class Validation:
    """The fixed windows of every domain.

    Raises DomainTooSmall for a stream of fewer than 2 tokens.
    """

    def __init__(
        self, streams: Mapping[str, TokenWindows], *, context: int, tokens_per_domain: int
    ) -> None:
        self.domains = tuple(streams)
        parts = [
            _windows(name, stream, context, tokens_per_domain) for name, stream in streams.items()
        ]
        rows = [len(part) for part in parts]
        windows = torch.from_numpy(np.concatenate(parts))
        self.inputs = windows[:, :-1].clamp(min=0).contiguous()  # (window, place)
        self.targets = windows[:, 1:].contiguous()  # (window, place), IGNORED is padding
        self._domain = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(rows))
        counted = (self.targets != IGNORED).sum(dim=1)
        self._counts = torch.zeros(len(rows), dtype=torch.int64).index_add_(
            0, self._domain, counted
        )

    @property
    def tokens(self) -> dict[str, int]:
        """How many tokens each domain's loss is the mean of."""
        return dict(zip(self.domains, self._counts.tolist(), strict=True))

    @torch.no_grad()
    def losses(self, features: Features, weight: Tensor, *, sequences: int) -> dict[str, float]:
        """Mean loss of each domain in nats per token, `sequences` windows at a time."""
        per_window = torch.cat(
            [
                self._window_losses(features, weight, first, sequences)
                for first in range(0, len(self.inputs), sequences)
            ]
        )
        sums = torch.zeros(len(self.domains), dtype=torch.float64).index_add_(
            0, self._domain, per_window
        )
        return dict(zip(self.domains, (sums / self._counts).tolist(), strict=True))

    def _window_losses(
        self, features: Features, weight: Tensor, first: int, sequences: int
    ) -> Tensor:
        inputs = self.inputs[first : first + sequences].to(weight.device)
        targets = self.targets[first : first + sequences].to(weight.device)
        losses = token_losses(features(inputs).flatten(0, 1), weight, targets.flatten())
        return losses.view(targets.shape).double().sum(dim=1).cpu()


def _windows(name: str, stream: TokenWindows, context: int, tokens: int) -> np.ndarray:
    """A domain's windows, shape (window, context + 1); IGNORED fills one that is too short."""
    if len(stream) < 2:
        raise DomainTooSmall(
            f"Domain {name!r} has {len(stream)} validation tokens, but a loss needs at least 2; "
            "add documents, or raise the validation fraction."
        )
    available = (len(stream) - 1) // context
    if available == 0:
        whole = stream.windows(np.array([0]), len(stream))
        return np.pad(whole, ((0, 0), (0, context + 1 - len(stream))), constant_values=IGNORED)
    count = min(available, max(1, tokens // context))
    starts = np.arange(count) * available // count * context
    return stream.windows(starts, context + 1)
