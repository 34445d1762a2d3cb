"""The CPU's products against torch's own: values, gradients, and what compiling makes of them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixlab.training import kernels
from mixlab.training.kernels import causal_attention, product


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    chance = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(shape, generator=chance, dtype=dtype).requires_grad_() for shape in shapes]


def gradients(out: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    by_out = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return torch.autograd.grad(out, inputs, by_out)


@given(
    rows=st.integers(1, 3),
    shared=st.integers(1, 3),
    group=st.integers(1, 3),
    places=st.integers(1, 100),
    half_width=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_attention_in_blocks_is_attention(
    rows: int, shared: int, group: int, places: int, half_width: int
) -> None:
    shapes = [(rows, heads, places, 2 * half_width) for heads in (shared * group, shared, shared)]
    inputs = drawn(*shapes, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_plain", lambda *tensors: True)
        found = causal_attention(*inputs)
        by_inputs = gradients(found, inputs)
    expected = F.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(by_inputs, gradients(expected, inputs))


def test_large_scores_do_not_overflow() -> None:
    q, k, v = drawn((2, 2, 70, 8), (2, 1, 70, 8), (2, 1, 70, 8))
    found = causal_attention(q * 1e3, k * 1e3, v)
    expected = F.scaled_dot_product_attention(q * 1e3, k * 1e3, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(1, 3), (5, 3), (2, 7, 3), (300, 3)], ids=str)
def test_products_are_those_of_linear(shape: tuple[int, ...]) -> None:
    inputs = drawn(shape, (11, 3))
    found, expected = product(*inputs), F.linear(*inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs))


def test_a_transposed_weight_is_one() -> None:
    x, weight = drawn((40, 6), (6, 9))
    torch.testing.assert_close(product(x, weight.t()), x @ weight)


def test_no_product_is_left_out_of_autocast() -> None:
    x, weight = drawn((4, 6), (9, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert product(x, weight).dtype == torch.bfloat16


@pytest.mark.slow
def test_compiled_they_give_the_same() -> None:
    x, weight = drawn((2, 40, 8), (32, 8))

    def mixed(x: Tensor, weight: Tensor) -> Tensor:
        heads = product(x, weight).view(2, 40, 8, 4).transpose(1, 2)
        return causal_attention(*heads.split((4, 2, 2), dim=1))

    compiled = torch.compile(mixed, dynamic=False, fullgraph=True)
    expected, found = mixed(x, weight), compiled(x, weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, [x, weight]), gradients(expected, [x, weight]))
