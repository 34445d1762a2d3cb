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
from mixlab.training.head import IGNORED
from mixlab.training.parallel import World

Each = Callable[[Tensor], Tensor]


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

    def losses(self, each: Each, world: World, *, sequences: int) -> dict[str, float]:
        """Mean loss of each domain in nats per token, `sequences` windows at a time.

        `each` gives the losses (row, place) of tokens (row, place + 1). Ranks share the
        windows, and all get the result.
        """
        mine = self._rows(world)
        per_window = torch.cat(
            [self._summed(each, rows, world.device) for rows in torch.split(mine, sequences)]
        )
        # Windows that only fill up the last round belong to no domain.
        real = mine < len(self.inputs)
        domain = self._domain[mine.clamp(max=len(self.inputs) - 1)]
        sums = torch.zeros(len(self.domains), dtype=torch.float64)
        sums.index_add_(0, domain[real], per_window[real])
        means = world.sum(sums) / self._counts
        return dict(zip(self.domains, means.tolist(), strict=True))

    def _rows(self, world: World) -> Tensor:
        """This rank's windows; as many on every rank, for all take part in every call."""
        rounds = -(-len(self.inputs) // world.size)
        return torch.arange(rounds) * world.size + world.rank

    def _summed(self, each: Each, rows: Tensor, device: torch.device) -> Tensor:
        rows = rows.clamp(max=len(self.inputs) - 1)
        tokens = torch.cat((self.inputs[rows, :1], self.targets[rows]), dim=1).to(device)
        return each(tokens).double().sum(dim=1).cpu()


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
