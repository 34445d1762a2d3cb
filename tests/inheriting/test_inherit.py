"""Inheritance leaves out what does nothing, and what is left is the donor's function."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mixlab.errors import AlreadyExists, InvalidLoss, InvalidRecipe
from mixlab.inheriting import (
    IMPORTANCES,
    Donor,
    Importance,
    Inheritance,
    inherit,
    read_donor,
)
from mixlab.inheriting.calibration import mean_loss
from mixlab.inheriting.importance import magnitude, taylor
from mixlab.inheriting.masks import learned
from mixlab.inheriting.slicing import decoder_of, sliced, without_layers
from mixlab.inheriting.units import Choice, chosen
from mixlab.recipes import Architecture
from mixlab.training.decoder import Decoder
from tests.inheriting.donors import CPU, HEIR, LARGE, model_of, planted, spoken, trained_like


def logits_of(found: Inheritance, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return decoder_of(found.weights, found.architecture, CPU)(tokens[:, :-1])


def check_planted(heir: Architecture, large: Architecture, seed: int, by: Importance) -> None:
    made = planted(heir, large, seed)
    whole = model_of(made.donor)
    tokens = spoken(whole)
    found = inherit(made.donor, heir, tokens, importance=by)
    report = found.report
    assert report["layers"]["kept"] == made.layers
    assert report["width"]["kept"] == made.width.tolist()
    assert [one["heads"] for one in report["blocks"]] == made.heads.tolist()
    assert [one["kv_heads"] for one in report["blocks"]] == made.kv_heads.tolist()
    assert [one["ffn"] for one in report["blocks"]] == made.ffn.tolist()
    with torch.no_grad():
        expected = whole(tokens[:, :-1])
    torch.testing.assert_close(logits_of(found, tokens), expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("by", IMPORTANCES)
def test_what_does_nothing_goes_and_nothing_else(by: Importance) -> None:
    check_planted(HEIR, LARGE, 0, by)


@pytest.mark.parametrize("by", ["l2", "taylor"])
def test_whole_groups_of_heads_go(by: Importance) -> None:
    large = replace(LARGE, width=48, heads=8, kv_heads=4)
    check_planted(replace(HEIR, width=24, heads=4, kv_heads=2), large, 3, by)


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(0, 2),
    st.booleans(),
)
def test_any_planted_shape_is_found(
    seed: int, groups: int, queries: int, more_groups: int, more_queries: int, tied: bool
) -> None:
    heads = 2 * groups * queries
    heir = replace(
        HEIR, heads=heads, kv_heads=2 * groups, width=6 * heads, ffn_width=30, tied_head=tied
    )
    more = (2 * groups + more_groups) * (queries + more_queries)
    large = replace(
        heir, layers=4, heads=more, kv_heads=2 * groups + more_groups, width=6 * more, ffn_width=45
    )
    check_planted(heir, large, seed, "taylor")


@pytest.mark.parametrize("by", IMPORTANCES)
@pytest.mark.parametrize("tied", [False, True])
def test_an_heir_of_the_same_shape_is_the_donor_to_the_bit(by: Importance, tied: bool) -> None:
    shape = replace(LARGE, tied_head=tied)
    donor = Donor(Path("donor"), shape, trained_like(shape, 0), None)
    found = inherit(donor, shape, spoken(model_of(donor), 8), importance=by)
    assert found.weights.keys() == donor.weights.keys()
    assert all(torch.equal(found.weights[name], donor.weights[name]) for name in donor.weights)


def test_a_tied_donor_gives_an_untied_heir_the_same_logits() -> None:
    shape = replace(HEIR, tied_head=True)
    donor = Donor(Path("donor"), shape, trained_like(shape, 0), None)
    tokens = spoken(model_of(donor), 8)
    found = inherit(donor, replace(shape, tied_head=False), tokens)
    with torch.no_grad():
        assert torch.equal(logits_of(found, tokens), model_of(donor)(tokens[:, :-1]))


def test_sensitivity_is_what_the_loss_rises_by_without_the_layer() -> None:
    donor = Donor(Path("donor"), LARGE, trained_like(LARGE, 5), None)
    tokens = spoken(model_of(donor))
    found = inherit(donor, replace(LARGE, layers=3), tokens).report
    whole = mean_loss(model_of(donor), tokens)
    told = found["layers"]["sensitivity_nats"]
    assert told[0] is None
    assert told[4] is None

    def without(*left_out: int) -> float:
        kept = [i for i in range(5) if i not in left_out]
        shape = replace(LARGE, layers=len(kept))
        return mean_loss(decoder_of(without_layers(donor.weights, kept), shape, CPU), tokens)

    assert [told[i] for i in (1, 2, 3)] == pytest.approx([without(i) - whole for i in (1, 2, 3)])
    # The second to go is the one that is missed least without the first.
    first = min((1, 2, 3), key=without)
    second = min({1, 2, 3} - {first}, key=lambda i: without(first, i))
    assert found["layers"]["dropped"] == [
        {"layer": first, "loss_nats": pytest.approx(without(first))},
        {"layer": second, "loss_nats": pytest.approx(without(first, second))},
    ]
    assert found["layers"]["kept"] == [i for i in range(5) if i not in (first, second)]


def test_taylor_is_the_sum_of_weight_times_gradient_of_each_unit() -> None:
    model = decoder_of(trained_like(HEIR, 2), HEIR, CPU)
    tokens = spoken(model, 4)
    found = taylor(model, tokens, [0, 1, 2])
    copy = Decoder(HEIR)
    copy.load_state_dict(model.state_dict())
    losses = torch.nn.functional.cross_entropy(
        copy(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()
    )
    losses.backward()
    value = {
        name: (w.detach() * w.grad).abs().numpy()  # type: ignore[operator]
        for name, w in copy.named_parameters()
    }
    own = HEIR.head_width
    neuron, head, dimension, block = 7, 3, 5, "blocks.1"
    gate_up, down = value[f"{block}.ffn.gate_up.weight"], value[f"{block}.ffn.down.weight"]
    expected = gate_up[neuron].sum() + gate_up[40 + neuron].sum() + down[:, neuron].sum()
    assert float(found.ffn[1, neuron]) == pytest.approx(expected, rel=1e-3)
    qkv, output = value[f"{block}.attention.qkv.weight"], value[f"{block}.attention.output.weight"]
    at = slice(head * own, (head + 1) * own)
    assert float(found.heads[1, head]) == pytest.approx(
        qkv[at].sum() + output[:, at].sum(), rel=1e-3
    )
    key = slice((4 + 1) * own, (4 + 2) * own)
    values = slice((6 + 1) * own, (6 + 2) * own)
    assert float(found.kv_heads[1, 1]) == pytest.approx(
        qkv[key].sum() + qkv[values].sum(), rel=1e-3
    )
    writers = ("attention.output.weight", "ffn.down.weight")
    along = sum(
        one[dimension].sum() if name.endswith(writers) or one.ndim == 1 else one[:, dimension].sum()
        for name, one in value.items()
    )
    assert float(found.width[dimension]) == pytest.approx(along, rel=1e-3)


def test_magnitudes_see_the_gain_before_a_weight() -> None:
    # A dimension whose gains are 0 is read by nobody, whatever the readers' weights are.
    weights = trained_like(HEIR, 0)
    for name, weight in weights.items():
        if weight.ndim == 1 or name.endswith(("output.weight", "down.weight")):
            weight[3] = 0.0
    weights["embedding.weight"][:, 3] = 0.0
    for by in ("l1", "l2"):
        scores = magnitude(decoder_of(weights, HEIR, CPU), by)  # type: ignore[arg-type]
        assert int(scores.width.argmin()) == 3
        assert float(scores.width[3]) == 0.0


def test_taylor_sees_that_a_neuron_is_not_used_where_magnitudes_do_not() -> None:
    shape = replace(HEIR, ffn_width=44)
    weights = trained_like(shape, 0)
    unused = [4, 11, 20, 43]
    for i in range(3):
        weights[f"blocks.{i}.ffn.down.weight"][:, unused] = 0.0
        weights[f"blocks.{i}.ffn.gate_up.weight"][unused] *= 100
    donor = Donor(Path("donor"), shape, weights, None)
    tokens = spoken(model_of(donor))
    kept = [i for i in range(44) if i not in unused]
    by = {
        one: inherit(donor, HEIR, tokens, importance=one).report for one in ("taylor", "l2")
    }  # fmt: skip
    assert all(block["ffn"] == kept for block in by["taylor"]["blocks"])
    assert all(set(unused) <= set(block["ffn"]) for block in by["l2"]["blocks"])
    assert by["taylor"]["loss_nats"]["heir"] < by["l2"]["loss_nats"]["heir"]


@pytest.mark.parametrize("by", IMPORTANCES)
def test_progress_is_told_to_the_end_of_each_stage(by: Importance) -> None:
    donor = Donor(Path("donor"), LARGE, trained_like(LARGE, 5), None)
    told: dict[str, list[tuple[int, int]]] = {}

    def watch(stage: str, done: int, of: int) -> None:
        told.setdefault(stage, []).append((done, of))

    shape = replace(LARGE, layers=3, ffn_width=LARGE.ffn_width // 2)
    inherit(donor, shape, spoken(model_of(donor)), importance=by, progress=watch)
    stages = {
        "l1": ["layers left out"],
        "l2": ["layers left out"],
        "taylor": ["layers left out", "importance"],
        "masks": ["layers left out", "importance", "masks"],
    }
    assert list(told) == stages[by]
    assert told["layers left out"] == [(i, 5) for i in range(1, 6)]  # 3 of 5 layers, then 2 of 4
    for steps in told.values():
        assert steps == [(i, len(steps)) for i in range(1, len(steps) + 1)]


def test_masks_learn_which_neurons_matter_from_a_wrong_beginning() -> None:
    made = planted(HEIR, replace(HEIR, ffn_width=56))
    model = model_of(made.donor)
    tokens = spoken(model)
    right = taylor(model, tokens, [0, 1, 2])
    wrong = replace(right, ffn=right.ffn.max() - right.ffn)
    begun, found = chosen(wrong, HEIR), chosen(learned(model, tokens, wrong, HEIR), HEIR)

    def useful(choice: Choice) -> int:
        pairs = zip(choice.ffn.tolist(), made.ffn.tolist(), strict=True)
        return sum(len(set(found) & set(planted)) for found, planted in pairs)

    def loss(choice: Choice) -> float:
        weights = sliced(made.donor.weights, model.shape, HEIR, choice, [1.0] * 7)
        return mean_loss(decoder_of(weights, HEIR, CPU), tokens)

    assert useful(begun) == 3 * 24  # all 16 neurons that do nothing were to stay in each layer
    assert useful(found) > useful(begun)
    assert loss(found) < 0.9 * loss(begun)


def test_masks_are_taken_only_where_they_do_better_on_sequences_they_have_not_seen() -> None:
    donor = Donor(Path("donor"), LARGE, trained_like(LARGE, 1), None)
    tokens = spoken(model_of(donor))
    smaller = replace(LARGE, ffn_width=40, heads=4, width=24)
    taken = {by: inherit(donor, smaller, tokens, importance=by) for by in ("taylor", "masks")}
    unseen = {
        by: mean_loss(decoder_of(one.weights, smaller, CPU), tokens[:16])
        for by, one in taken.items()
    }
    assert unseen["masks"] <= unseen["taylor"]


def test_what_is_written_can_be_read_and_inherited_from_again(tmp_path: Path) -> None:
    donor = Donor(tmp_path / "donor", LARGE, trained_like(LARGE, 0), None)
    tokens = spoken(model_of(donor), 8)
    found = inherit(donor, HEIR, tokens, out=tmp_path / "heir")
    again = read_donor(tmp_path / "heir" / "weights.safetensors")
    assert again.architecture == HEIR
    stored = load_file(tmp_path / "heir" / "weights.safetensors")
    assert all(torch.equal(stored[name], again.weights[name]) for name in found.weights)
    assert json.loads((tmp_path / "heir" / "inheritance.json").read_text()) == found.report
    with pytest.raises(AlreadyExists):
        inherit(donor, HEIR, tokens, out=tmp_path / "heir")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("blocks.3.ffn.down.weight", None),
        ("blocks.0.ffn.down.weight", torch.zeros(3, 3)),
        ("other", torch.zeros(2)),
    ],
)
def test_a_donor_whose_tensors_are_not_its_shapes_is_refused(
    name: str, tensor: torch.Tensor | None, tmp_path: Path
) -> None:
    weights = trained_like(LARGE, 0)
    weights = {**weights, name: tensor} if tensor is not None else weights
    kept = {one: value for one, value in weights.items() if one != name or tensor is not None}
    run = {"run": json.dumps({"architecture": asdict(LARGE)})}
    save_file(kept, tmp_path / "weights.safetensors", run)
    with pytest.raises(InvalidRecipe, match=f"another shape.*{name}"):
        read_donor(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": 6}, "6 layers and the donor 5"),
        ({"ffn_width": 57}, "57 FFN neurons"),
        ({"width": 48, "heads": 8}, "48 dimensions of width"),
        ({"vocabulary": 60}, "vocabulary is 60"),
        ({"width": 32, "heads": 4}, "8 wide"),
        ({"kv_heads": 1}, "at least 2 key/value heads"),
        ({"rope_theta": 500.0}, "rope_theta"),
        ({"tied_head": True}, "tied_head to False"),
        ({"layers": 1}, "at least 2"),
    ],
)
def test_a_shape_that_the_donor_can_not_give_is_refused(
    change: dict[str, object], said: str
) -> None:
    donor = Donor(Path("donor"), LARGE, trained_like(LARGE, 0), None)
    with pytest.raises(InvalidRecipe, match=said):
        inherit(donor, replace(HEIR, **change), torch.zeros(1, 17, dtype=torch.int64))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (torch.zeros(0, 17, dtype=torch.int64), "shape"),
        (torch.zeros(1, 18, dtype=torch.int64), "longer than the donor's context of 16"),
        (torch.full((1, 17), 50), "token 50"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(tokens: torch.Tensor, said: str) -> None:
    donor = Donor(Path("donor"), LARGE, trained_like(LARGE, 0), None)
    with pytest.raises(InvalidRecipe, match=said):
        inherit(donor, HEIR, tokens)


def test_numbers_that_are_none_are_told_with_their_layer() -> None:
    tokens = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(0))
    weights = trained_like(LARGE, 0)
    weights["blocks.2.ffn.down.weight"][0, 0] = float("nan")
    with pytest.raises(InvalidLoss, match=r"blocks\.2\.ffn\.down\.weight holds"):
        inherit(Donor(Path("donor"), LARGE, weights, None), HEIR, tokens)
    weights = trained_like(LARGE, 0)
    weights["blocks.3.ffn.down.weight"][:] = 3e38
    with pytest.raises(InvalidLoss, match="Layer 3 of the donor"):
        inherit(Donor(Path("donor"), LARGE, weights, None), HEIR, tokens)
    # Here the loss is a number, and its gradients are none.
    weights = trained_like(LARGE, 0)
    weights["blocks.3.ffn.down.weight"] *= 1e38
    with pytest.raises(InvalidLoss, match=r"by layer 4 \(ffn\.down"):
        inherit(Donor(Path("donor"), LARGE, weights, None), HEIR, tokens)
