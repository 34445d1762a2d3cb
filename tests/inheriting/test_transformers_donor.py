"""A donor of transformers: its heir's layers are what transformers computes with those alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixlab.errors import MissingFile
from mixlab.inheriting import inherit, read_donor
from mixlab.inheriting.slicing import decoder_of
from tests.training.llamas import GROUPED, llama, some_tokens


def test_an_heir_with_fewer_layers_is_the_llama_without_those(tmp_path: Path) -> None:
    shape = replace(GROUPED, layers=4)
    model = llama(shape)
    model.save_pretrained(tmp_path / "llama")
    donor = read_donor(tmp_path / "llama")
    assert donor.architecture == shape
    tokens = some_tokens(shape, sequences=6)
    found = inherit(donor, replace(shape, layers=3), tokens)
    (left_out,) = [one["layer"] for one in found.report["layers"]["dropped"]]
    assert left_out in (1, 2)

    def loss() -> float:
        with torch.no_grad():
            return float(model(tokens, labels=tokens).loss)

    layers = list(model.model.layers)
    losses = [found.report["loss_nats"]["donor"]]
    assert losses[0] == pytest.approx(loss(), rel=1e-4)
    without = {}
    for i in (1, 2):
        model.model.layers = torch.nn.ModuleList(layers[:i] + layers[i + 1 :])
        without[i] = loss()
    assert left_out == min(without, key=lambda i: without[i])
    assert found.report["loss_nats"]["heir"] == pytest.approx(without[left_out], rel=1e-4)
    model.model.layers = torch.nn.ModuleList(layers[:left_out] + layers[left_out + 1 :])
    with torch.no_grad():
        expected = model(tokens).logits
        logits = decoder_of(found.weights, found.architecture, torch.device("cpu"))(tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_a_folder_that_holds_no_model_is_no_donor(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        read_donor(tmp_path)
