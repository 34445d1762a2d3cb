"""The two products that training spends its time on, faster on a CPU than torch's own.

    product(x, weight)         x @ weight^T
    causal_attention(q, k, v)  softmax(q k^T / sqrt(head width), up to the own place) v

Both hold for float32 on the CPU; elsewhere, and under autocast, they are torch's own.

`product` and its gradient by x go through oneDNN, which has AVX-512 on every CPU that has it,
where torch takes MKL, which doesn't on AMD: 95 against 77 GFLOP/s on a Zen 4 core. The gradient
by the weight stays with MKL, which is as fast there.

`causal_attention` multiplies blocks of places as batches of matrices, and skips those that lie
wholly ahead. The heads that share keys are rows of one matrix, and probabilities are kept for
the gradient: at 256 places, 4 heads of 64 over 2 of keys, 47 ms forwards and backwards, where
torch's kernel takes 56. Those probabilities grow with the square of the places, so longer
sequences, at which torch's kernel catches up, are left to it.

Inductor sees both as opaque operators: its own lowering of the first is for constant weights,
and it would compile every block of the second. Limits: no second derivatives.
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST_KEPT = 512  # places
# Smaller ones waste less on what is hidden, larger ones are better matrices.
BLOCK_PLACES = 32

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Shape (..., outputs), from x (..., inputs) and weight (outputs, inputs)."""
    if not (_ONEDNN and _plain(x, weight)):
        return F.linear(x, weight)
    out: Tensor = _Product.apply(x, weight)  # type: ignore[no-untyped-call]
    return out


def add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """total += x @ y, without holding what is added where that can be."""
    if _plain(total, x, y):
        total.addmm_(x, y)
    else:
        total += x @ y


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same shape as q, (row, head, place, width), from k and v (row, kv head, place, width).

    Heads of queries that stand together share a head of keys and values.
    """
    rows, heads, places, width = q.shape
    shared = k.shape[1]
    if not _plain(q, k, v) or places > LONGEST_KEPT:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != shared)
    # A place's queries of one group are neighbours, so that a block of places is one slice.
    grouped = q.reshape(rows, shared, -1, places, width).transpose(2, 3)
    flat = (rows * shared, -1, width)
    mixed: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        grouped.reshape(flat), k.reshape(flat), v.reshape(flat)
    )
    return mixed.view(rows, shared, places, -1, width).transpose(2, 3).reshape(q.shape)


def _plain(*tensors: Tensor) -> bool:
    """Whether all are float32 on the CPU, and stay so."""
    return not torch.is_autocast_enabled("cpu") and all(
        one.dtype == torch.float32 and one.device.type == "cpu" for one in tensors
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _times(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        by_out = gradients[0]
        by_x = _times(by_out, weight.t()) if ctx.needs_input_grad[0] else None
        return by_x, by_out.flatten(0, -2).t() @ x.flatten(0, -2)


class _Attention(torch.autograd.Function):
    """Shapes: q (batch, place * group, width), k and v (batch, place, width)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        forwards = _opaque_attention if torch.compiler.is_compiling() else _attention
        out, shares = forwards(q, k, v, BLOCK_PLACES)
        ctx.save_for_backward(q, k, v, shares)
        ctx.block = BLOCK_PLACES
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, shares = ctx.saved_tensors
        backwards = _opaque_gradients if torch.compiler.is_compiling() else _attention_gradients
        return backwards(gradients[0], q, k, v, shares, ctx.block)


def _attention(q: Tensor, k: Tensor, v: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """The mixed values, and the probabilities of all blocks, one after the other."""
    batch, places, width = k.shape
    group = q.shape[1] // places
    out, shares = torch.empty_like(q), q.new_empty(_cells(batch, group, places, block))
    # Of a block of places: what comes after the own one.
    ahead = q.new_full((block, block), -math.inf).triu_(1).repeat_interleave(group, dim=0)
    for (first, end), share in _blocks(shares, batch, group, places, block):
        own, size = slice(first * group, end * group), end - first
        torch.baddbmm(
            share, q[:, own], k[:, :end].mT, beta=0, alpha=1 / math.sqrt(width), out=share
        )
        share[..., first:].add_(ahead[: size * group, :size])
        torch.softmax(share, dim=-1, out=share)
        torch.bmm(share, v[:, :end], out=out[:, own])
    return out, shares


def _attention_gradients(
    by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, shares: Tensor, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """By q, k and v."""
    batch, places, width = k.shape
    group, scale = q.shape[1] // places, 1 / math.sqrt(width)
    by_q, by_k, by_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for (first, end), share in _blocks(shares, batch, group, places, block):
        own = slice(first * group, end * group)
        # Not baddbmm_: on a slice it would fall back to one matrix after the other.
        by_v[:, :end] += torch.bmm(share.mT, by_out[:, own])
        by_share = torch.bmm(by_out[:, own], v[:, :end].mT)
        by_score = torch._softmax_backward_data(
            by_share, share, -1, share.dtype, grad_input=by_share
        ).mul_(scale)
        torch.bmm(by_score, k[:, :end], out=by_q[:, own])
        by_k[:, :end] += torch.bmm(by_score.mT, q[:, own])
    return by_q, by_k, by_v


def _cells(batch: int, group: int, places: int, block: int) -> int:
    """How many probabilities there are in all blocks."""
    return batch * group * sum((end - first) * end for first, end in _spans(places, block))


def _spans(places: int, block: int) -> list[tuple[int, int]]:
    """First and end place of each block."""
    return list(pairwise([*range(0, places, block), places]))


def _blocks(
    shares: Tensor, batch: int, group: int, places: int, block: int
) -> list[tuple[tuple[int, int], Tensor]]:
    """First and end place of each block, and its probabilities (batch, own row, place)."""
    spans = _spans(places, block)
    sizes = [batch * group * (end - first) * end for first, end in spans]
    parts = torch.split(shares, sizes)
    return [
        ((first, end), part.view(batch, (end - first) * group, end))
        for (first, end), part in zip(spans, parts, strict=True)
    ]


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


def _times(x: Tensor, weight: Tensor) -> Tensor:
    return _opaque_product(x, weight) if torch.compiler.is_compiling() else _onednn(x, weight)


# Everything that decides a shape is an argument, because compiled code is kept between runs.
_opaque_product = torch.library.custom_op("mixlab::product", _onednn, mutates_args=())
_opaque_attention = torch.library.custom_op("mixlab::attention", _attention, mutates_args=())
_opaque_gradients = torch.library.custom_op(
    "mixlab::attention_gradients", _attention_gradients, mutates_args=()
)


@_opaque_product.register_fake
def _product_shape(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@_opaque_attention.register_fake
def _attention_shapes(q: Tensor, k: Tensor, v: Tensor, block: int) -> tuple[Tensor, Tensor]:
    batch, places, _ = k.shape
    cells = _cells(batch, q.shape[1] // places, places, block)
    return torch.empty_like(q), q.new_empty(cells)


@_opaque_gradients.register_fake
def _gradient_shapes(
    by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, shares: Tensor, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
