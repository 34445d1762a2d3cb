"""The decoder: a Llama-style language model, in one file, read from top to bottom.

    x   = embedding[tokens]
    x  += attention(rms_norm(x));  x += swiglu(rms_norm(x))      in every block
    logits = rms_norm(x) @ head^T                                the loss is in head.py

Attention: rotary positions (the half-split form of GPT-NeoX and of Llama in transformers),
queries of `heads` heads over `kv_heads` shared keys and values, causal. No biases, no dropout.
The products are those of kernels.py: torch's own, and faster ones where a CPU has them.

Stacked runs: with `runs` every weight gains a leading axis (run, ...), and tokens of shape
(run, sequence, place) go through all models at once, each through its own weights. The three
leaves Linear, Norm and Embedding know of it; nothing else does.

Initialisation: matrices normal with standard deviation 1/sqrt(fan in), those that write into
the residual stream divided by sqrt(2 * layers) (Radford et al. 2019); norms 1. A head of its
own starts at 0.02, so that a fresh model's loss is ln(vocabulary) + 0.0002 * width nats, and
its embedding at 1 (as in karpathy/nanochat). A tied table is a matrix to the head, and starts
like one. With a `base_width` a head of its own starts at 0.02 * base_width / width: the
maximal-update initialisation (arXiv 2203.03466, table 3), whose rates are in optimiser.py.

Numbers: weights, their gradients, the residual stream and the norms are float32. Autocast to
bfloat16 rounds matrix products and what lies between two of them (rotation, attention, gate),
which moves logits by 0.4 % of their spread and gradients by 1 % (a test holds 1 and 2 %).

Sources: arXiv 2302.13971 (Llama), 1910.07467 (RMSNorm), 2104.09864 (RoPE), 2002.05202
(SwiGLU), 2305.13245 (grouped queries). Limits: documents packed into one window see each other.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixlab.recipes import Architecture
from mixlab.training.kernels import causal_attention, product

HEAD_STD = 0.02
EMBEDDING_STD = 1.0


class Decoder(nn.Module):
    """A decoder of the given shape with `Architecture.parameters` parameters, or `runs` of them.

    Build it under `torch.device("meta")` to have the shapes without the memory. Weights are
    undefined until `initialise`.
    """

    def __init__(self, shape: Architecture, *, runs: int | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.runs = runs
        stack = () if runs is None else (runs,)
        self.embedding = Embedding(shape.vocabulary, shape.width, stack)
        self.blocks = nn.ModuleList(Block(shape, stack) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.norm_epsilon, stack)
        self.head = Linear(shape.width, shape.vocabulary, stack)
        if shape.tied_head:
            self.head.weight = self.embedding.weight
        rotation = rotations(shape.context, shape.head_width, shape.rope_theta)
        self.register_buffer("rotation", rotation, persistent=False)
        self.rotation: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token, shape (sequence, place, vocabulary).

        Of stacked runs (run, sequence * place, vocabulary).
        """
        logits: Tensor = self.head(self.features(tokens))
        return logits

    def features(self, tokens: Tensor) -> Tensor:
        """What the head reads, shape (sequence, place, width).

        Of stacked runs (run, sequence * place, width), from tokens (run, sequence, place).
        """
        x = self.embedding(tokens)
        # At least float32: a table that FSDP gathers is bfloat16.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        rotation = self.rotation[: tokens.shape[-1]]
        for block in self.blocks:
            x = block(x, rotation)
        features: Tensor = self.norm(x)
        return features

    @torch.no_grad()
    def initialise(self, seed: int | Sequence[int], *, base_width: int | None = None) -> None:
        """Fill every weight, the same for a seed on every machine and device.

        Stacked runs take a seed each, and each is as it would be alone.
        """
        seeds = [seed] if isinstance(seed, int) else list(seed)
        for run, chance in enumerate([torch.Generator().manual_seed(one) for one in seeds]):
            for name, weight in self.named_parameters():
                own = weight if self.runs is None else weight[run]
                if own.ndim == 1:
                    own.fill_(1.0)
                else:
                    # In place where the stream is the same: a large model is touched once.
                    plain = own.is_cpu and own.dtype == torch.float32 and own.is_contiguous()
                    values = own if plain else torch.empty(own.shape, dtype=torch.float32)
                    values.normal_(generator=chance)
                    values.mul_(self._standard_deviation(name, own, base_width))
                    own.copy_(values)

    def _standard_deviation(self, name: str, weight: Tensor, base_width: int | None) -> float:
        if not self.shape.tied_head and not name.startswith("blocks."):
            if name.startswith("embedding"):
                return EMBEDDING_STD
            # 4.71 nats where one tied table of 0.02 has 5.28, at 0.5M tokens (EXPERIMENTS.md).
            return HEAD_STD * (1.0 if base_width is None else base_width / self.shape.width)
        into_residual = name.endswith((".output.weight", ".down.weight"))
        damping = math.sqrt(2 * self.shape.layers) if into_residual else 1.0
        return 1.0 / (math.sqrt(weight.shape[1]) * damping)


class Block(nn.Module):
    """Attention and feed-forward, each added to the stream it reads."""

    recomputed = False  # keep only the input for the gradient, and compute the rest once more

    def __init__(self, shape: Architecture, stack: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.attention_norm = Norm(shape.width, shape.norm_epsilon, stack)
        self.attention = Attention(shape, stack)
        self.ffn_norm = Norm(shape.width, shape.norm_epsilon, stack)
        self.ffn = SwiGLU(shape.width, shape.ffn_width, stack)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """The stream after the block, of the same shape."""
        if self.recomputed:
            # Nothing in a block is drawn by chance, so no random state has to be put back.
            out: Tensor = checkpoint(
                self._added, x, rotation, use_reentrant=False, preserve_rng_state=False
            )
            return out
        return self._added(x, rotation)

    def _added(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation)
        x = x + self.ffn(self.ffn_norm(x))
        return x


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, shape: Architecture, stack: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        self.head_width = shape.head_width
        # One matrix for queries, keys and values, in that order of rows.
        rows = (shape.heads + 2 * shape.kv_heads) * shape.head_width
        self.qkv = Linear(shape.width, rows, stack)
        self.output = Linear(shape.width, shape.width, stack)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """The same shape as x; sequences of all runs are rows of one attention."""
        places = len(rotation)
        rows = self.heads + 2 * self.kv_heads
        heads = self.qkv(x).view(-1, places, rows, self.head_width).transpose(1, 2)
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        mixed = causal_attention(rotated(q, rotation), rotated(k, rotation), v)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(x.shape))
        return out


class SwiGLU(nn.Module):
    """Feed-forward with a gate: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, ffn_width: int, stack: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * ffn_width, stack)
        self.down = Linear(ffn_width, width, stack)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as x."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class Linear(nn.Module):
    """x @ weight^T, weight (outputs, inputs); of stacked runs each by its own."""

    def __init__(self, inputs: int, outputs: int, stack: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*stack, outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (..., inputs) to (..., outputs); stacked (run, row, ...)."""
        if self.weight.ndim == 2:
            return product(x, self.weight)
        return torch.bmm(x, self.weight.mT)


class Norm(nn.Module):
    """RMSNorm: x / sqrt(mean(x^2) + epsilon) * weight."""

    def __init__(self, width: int, epsilon: float, stack: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.empty(*stack, width))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as x."""
        if self.weight.ndim == 1:
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.epsilon)
        return F.rms_norm(x, self.weight.shape[1:], eps=self.epsilon) * self.weight[:, None]


class Embedding(nn.Module):
    """A row of the table for each token."""

    def __init__(self, vocabulary: int, width: int, stack: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*stack, vocabulary, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Shape (sequence, place, width); stacked (run, sequence * place, width)."""
        if self.weight.ndim == 2:
            return F.embedding(tokens, self.weight)
        runs, vocabulary, _ = self.weight.shape
        # One table of all runs' rows, because a gather has no batched form.
        firsts = torch.arange(runs, device=tokens.device)[:, None] * vocabulary
        return F.embedding(tokens.flatten(1) + firsts, self.weight.flatten(0, 1))


def rotations(context: int, head_width: int, theta: float) -> Tensor:
    """(cos, cos) and (-sin, sin) of place * theta^(-2i / head_width).

    Shape (place, 2, head_width), i from 0 to head_width / 2 - 1 in each half.
    """
    rates = theta ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.outer(torch.arange(context, dtype=torch.float64), rates)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), 1), torch.cat((-sin, sin), 1)), dim=1).float()


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn every pair (i, i + head_width / 2) of x, shape (..., place, head_width)."""
    cos, sin = rotation.to(x.dtype).unbind(dim=1)
    # Swapping the halves by roll costs one pass over memory less than chunk and cat.
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
