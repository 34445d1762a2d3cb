"""The FLOP formulas beside torch's own count of what the decoder multiplies."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixlab.recipes import Architecture, Flops
from mixlab.training.decoder import Decoder


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_formula_is_three_forward_passes_of_matrices_and_the_norms(
    tied: bool, kv_heads: int
) -> None:
    shape = Architecture(
        layers=3, width=32, heads=4, kv_heads=kv_heads, ffn_width=80, vocabulary=96, context=16,
        tied_head=tied,
    )  # fmt: skip
    # In float64, whose products are torch's own everywhere: it counts no others (kernels.py).
    model = Decoder(shape).double()
    model.initialise(0)
    tokens = torch.zeros((2, shape.context), dtype=torch.int64)
    # As plain matrix products, which the counter sees; the mask is not used to skip any.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        logits = model(tokens)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert backward.get_total_flops() == 2 * forward.get_total_flops()
    # The formula's only excess is 6 a norm's parameter, which are no matrices.
    norms = shape.width * (2 * shape.layers + 1)
    counted = 3 * forward.get_total_flops() / tokens.numel()
    assert shape.flops_per_token() - 6 * norms == counted
    causal = 6 * shape.layers * shape.width * shape.context
    assert shape.flops_per_token(Flops.CAUSAL) == shape.flops_per_token() - causal
    if not tied:
        table = 6 * shape.vocabulary * shape.width
        assert shape.flops_per_token(Flops.ALL_PARAMETERS) == shape.flops_per_token() + table
