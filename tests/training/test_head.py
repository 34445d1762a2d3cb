"""The chunked loss against torch's own, values and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from mixlab.training import head
from mixlab.training.head import IGNORED, loss_sum, loss_sums, token_losses


def inputs(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(rows)
    features = torch.randn(rows, 7, generator=chance, dtype=dtype, requires_grad=True)
    weight = torch.randn(11, 7, generator=chance, dtype=dtype, requires_grad=True)
    return features, weight, torch.randint(11, (rows,), generator=chance)


@pytest.mark.parametrize("rows", [1, 4, 5, 30])
def test_loss_and_gradients_are_those_of_cross_entropy(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", 4 * 11 * 4)  # four rows a chunk
    features, weight, targets = inputs(rows, torch.float32)
    found = loss_sum(features, weight, targets)
    expected = F.cross_entropy(features @ weight.t(), targets, reduction="sum")
    torch.testing.assert_close(found, expected)
    # Scaled, as a mean over the batch scales it.
    gradients = torch.autograd.grad(found / 3, (features, weight))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected / 3, (features, weight)))


def test_huge_logits_do_not_overflow() -> None:
    features, weight, targets = inputs(6, torch.float32)
    found = loss_sum(features * 1e4, weight, targets)
    expected = F.cross_entropy(features * 1e4 @ weight.t(), targets, reduction="sum")
    torch.testing.assert_close(found, expected)


def test_under_bfloat16_autocast_it_is_near_float32() -> None:
    features, weight, targets = inputs(64, torch.float32)
    exact = loss_sum(features, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss_sum(features, weight, targets)
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)
    by_weight = torch.autograd.grad(exact, weight)[0]
    torch.testing.assert_close(
        torch.autograd.grad(rounded, weight)[0], by_weight, rtol=0.1, atol=0.3
    )


def test_a_bfloat16_tables_gradient_is_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As FSDP gathers it: a sum over many chunks is rounded once, as that over one is."""
    features, weight, targets = inputs(1000, torch.float32)
    table = weight.detach().bfloat16().requires_grad_()
    gradients = []
    for rows in (1000, 2):
        monkeypatch.setitem(head.CHUNK_BYTES, "cpu", rows * 11 * 4)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_sum(features, table, targets)
        gradients.append(torch.autograd.grad(loss, table)[0].float())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=2**-7, atol=0.1)


def test_token_losses_skip_padding() -> None:
    features, weight, targets = inputs(10, torch.float32)
    expected = F.cross_entropy(features @ weight.t(), targets, reduction="none")
    targets[3] = targets[7] = IGNORED
    expected[3] = expected[7] = 0
    torch.testing.assert_close(token_losses(features, weight, targets), expected.detach())


def stacked(runs: int, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(runs)
    features = torch.randn(runs, rows, 7, generator=chance, requires_grad=True)
    weight = torch.randn(runs, 11, 7, generator=chance, requires_grad=True)
    return features, weight, torch.randint(11, (runs, rows), generator=chance)


@pytest.mark.parametrize("chunk_rows", [1, 4, 5, 10, 12, 15, 100])
def test_stacked_losses_and_gradients_are_each_runs_own(
    chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of parts of a run, of a run, of several runs and of all."""
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", 4 * 11 * chunk_rows)
    features, weight, targets = stacked(runs=3, rows=5)
    found = loss_sums(features, weight, targets)
    alone = torch.stack([loss_sum(*one) for one in zip(features, weight, targets, strict=True)])
    torch.testing.assert_close(found, alone)
    scale = torch.tensor([0.3, 1.0, 2.0])  # a step's tokens may differ by run
    torch.testing.assert_close(
        torch.autograd.grad((found * scale).sum(), (features, weight)),
        torch.autograd.grad((alone * scale).sum(), (features, weight)),
    )


def test_a_run_that_is_no_number_leaves_the_others_alone() -> None:
    features, weight, targets = stacked(runs=3, rows=5)
    good = torch.autograd.grad(loss_sums(features, weight, targets).sum(), (features, weight))
    broken = features.detach().clone()
    broken[1, 2, 3] = math.nan
    broken.requires_grad_()
    found = loss_sums(broken, weight, targets)
    bad = torch.autograd.grad(found.sum(), (broken, weight))
    assert found.isnan().tolist() == [False, True, False]
    for one, other in zip(good, bad, strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]])


def test_stacked_losses_under_bfloat16_autocast_are_near_float32() -> None:
    features, weight, targets = stacked(runs=3, rows=40)
    exact = loss_sums(features, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss_sums(features, weight, targets)
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)
    by_weight = torch.autograd.grad(exact.sum(), weight)[0]
    torch.testing.assert_close(
        torch.autograd.grad(rounded.sum(), weight)[0], by_weight, rtol=0.1, atol=0.3
    )
