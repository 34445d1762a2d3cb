"""The shape of a decoder, and what it counts: parameters and arithmetic per token.

Parameters are exact for the decoder in `mixlab/training/decoder.py`:

    embedding V*d, per block (h + 2*kv)*(d/h)*d + d*d + 3*d*f + 2*d,
    final norm d, and a head of V*d unless it is tied to the embedding.

Arithmetic of one trained token, forwards and backwards, has three formulas in use, which
differ by seven points of utilisation on one and the same run: 24,000 tokens/s of TinyLlama
on a 312 TFLOP/s device are 56.3 %, 52.0 % or 59.3 %. So none is shown without its name. The
embedding is a look-up and no arithmetic; a tied table is counted, since the head multiplies
by it. Attention is 12 L d T with every pair of places and 6 L d T with those that the causal
mask leaves, which is what a fused kernel computes.

Sources: PaLM, arXiv 2204.02311, appendix B (with attention); jzhang38/TinyLlama, README (56 %)
and `lit_gpt/speed_monitor.py` (all parameters); Lightning-AI/litgpt, tutorials (52 %).
Limits: norms count as 6 a parameter, though they are no matrices, below 0.1 %; softmax,
rotations and the optimiser are left out, as is what activation checkpointing computes again.
"""

import math
from dataclasses import dataclass, fields
from enum import Enum
from numbers import Integral

from mixlab.errors import InvalidRecipe


class Flops(Enum):
    """A formula for the floating-point operations of one trained token, by its text."""

    WITHOUT_EMBEDDING = "6 (N - input embedding) + 12 L d T"
    CAUSAL = "6 (N - input embedding) + 6 L d T"
    ALL_PARAMETERS = "6 N + 12 L d T"


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
        elif name == "tied_head":
            if not isinstance(value, bool):
                raise InvalidRecipe(f"tied_head must be true or false, not {value!r}.")
        elif not whole(value, 1):
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
    def head_parameters(self) -> int:
        """Parameters that the head multiplies by; a tied head has them from the embedding."""
        return self.vocabulary * self.width

    @property
    def parameters_without_embedding(self) -> int:
        """Parameters that a token is multiplied by: blocks, final norm and head."""
        return self.block_parameters + self.width + self.head_parameters

    @property
    def parameters(self) -> int:
        """Every parameter: blocks, embedding, final norm, and the head unless it is tied."""
        embedding = 0 if self.tied_head else self.vocabulary * self.width
        return self.parameters_without_embedding + embedding

    def flops_per_token(self, formula: Flops = Flops.WITHOUT_EMBEDDING) -> int:
        """Floating-point operations of one trained token, forwards and backwards."""
        attention = 6 if formula is Flops.CAUSAL else 12
        counted = (
            self.parameters
            if formula is Flops.ALL_PARAMETERS
            else self.parameters_without_embedding
        )
        return 6 * counted + attention * self.layers * self.width * self.context

    @property
    def head_share(self) -> float:
        """The head's share of `flops_per_token()`: what a large vocabulary costs."""
        return 6 * self.head_parameters / self.flops_per_token()


def whole(value: object, least: int) -> bool:
    """Whether a value is a whole number of at least `least`."""
    return isinstance(value, Integral) and int(value) >= least
