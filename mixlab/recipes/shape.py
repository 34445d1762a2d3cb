"""The shape of a decoder, and what it counts: parameters.

Counts are exact for the decoder in `mixlab/training/decoder.py`:

    embedding V*d, per block (h + 2*kv)*(d/h)*d + d*d + 3*d*f + 2*d,
    final norm d, and a head of V*d unless it is tied to the embedding.
"""

import math
from dataclasses import dataclass, fields
from numbers import Integral

from mixlab.errors import InvalidRecipe


@dataclass(frozen=True)
class Architecture:
    """The shape of a Llama-style decoder: RMSNorm, RoPE, SwiGLU, grouped-query attention.

    Raises InvalidRecipe for counts below 1 and heads that don't divide evenly.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn_width: int
    vocabulary: int
    context: int
    tied_head: bool
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_number(field.name)
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise InvalidRecipe(
                f"width {self.width} over {self.heads} heads must give an even whole head size."
            )
        if self.heads % self.kv_heads:
            raise InvalidRecipe(
                f"{self.heads} heads can't share {self.kv_heads} key/value heads evenly."
            )

    def _check_number(self, name: str) -> None:
        value = getattr(self, name)
        if name in ("rope_theta", "norm_epsilon"):
            if not (math.isfinite(value) and value > 0):
                raise InvalidRecipe(f"{name} must be a finite number above 0, not {value}.")
        elif name != "tied_head" and not whole(value, 1):
            raise InvalidRecipe(f"{name} must be a whole number of at least 1, not {value}.")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def block_parameters(self) -> int:
        """Parameters of all blocks, without embedding, head and final norm."""
        attention = (self.heads + 2 * self.kv_heads) * self.head_width * self.width
        output = self.width * self.width
        return self.layers * (attention + output + 3 * self.width * self.ffn_width + 2 * self.width)

    @property
    def parameters(self) -> int:
        """Every parameter: blocks, embedding, final norm, and the head unless it is tied."""
        tables = self.vocabulary * self.width * (1 if self.tied_head else 2)
        return self.block_parameters + tables + self.width


def whole(value: object, least: int) -> bool:
    """Whether a value is a whole number of at least `least`."""
    return isinstance(value, Integral) and int(value) >= least
