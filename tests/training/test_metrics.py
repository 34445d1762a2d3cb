"""Metrics: each look once, whatever killed the run; utilisation by its formula, or none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.mixture import Mixture
from mixlab.recipes import tinyllama_1b
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training import TrainingProgress, train
from mixlab.training import metrics as metrics_module
from mixlab.training.metrics import Metrics, peak_flops, utilisation
from mixlab.training.optimiser import learning_rate
from tests.training.conftest import small_recipe

TIMES = {"tokens_per_second", "mfu", "memory_bytes", "seconds"}


def lines(folder: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name not in TIMES} for line in found]


def test_a_line_tells_of_the_updates_since_the_line_before(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    recipe = replace(small_recipe(20), evaluation_steps=(15,))
    result = train(recipe, corpus, mixture, seed=1, threads=1, folder=tmp_path)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [10, 15, 20]
    assert [line["tokens"] for line in found] == [2560, 3840, 5120]
    assert [line["learning_rate"] for line in found] == [learning_rate(recipe, 20)] * 3
    assert [line.get("losses_nats") for line in found] == [
        None, dict(result.observations[0].losses_nats), None,
    ]  # fmt: skip
    assert found[0]["train_loss_nats"] > found[2]["train_loss_nats"] > 0
    assert all(line["gradient_norm"] > 0 for line in found)


def test_a_line_has_the_means_of_its_updates(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    for name, steps in (("each", tuple(range(1, 21))), ("few", (15,))):
        recipe = replace(small_recipe(20), evaluation_steps=steps)
        train(recipe, corpus, mixture, seed=1, threads=1, folder=tmp_path / name)
    each, few = lines(tmp_path / "each"), lines(tmp_path / "few")
    for name in ("train_loss_nats", "gradient_norm"):
        values = [line[name] for line in each]
        parts = (values[:10], values[10:15], values[15:])
        assert [line[name] for line in few] == pytest.approx([sum(p) / len(p) for p in parts])


@pytest.mark.parametrize("stop_at", [7, 10, 13])
def test_a_run_in_parts_has_the_lines_of_a_whole_one(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path, stop_at: int
) -> None:
    options = {"seed": 1, "threads": 1}
    train(small_recipe(20), corpus, mixture, folder=tmp_path / "whole", **options)
    asked = iter([False] * (stop_at - 1) + [True])
    train(small_recipe(20), corpus, mixture, folder=tmp_path / "parts",
          stop=lambda: next(asked), **options)  # fmt: skip
    train(small_recipe(20), corpus, mixture, folder=tmp_path / "parts", **options)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_lines_after_the_checkpoint_and_a_torn_one_are_taken_away(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for step in (10, 20, 30):
        metrics.add({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "tr')
    assert metrics.rewind(20) == 30
    assert metrics.lines() == [{"step": 10}, {"step": 20}]
    metrics.add({"step": 30})
    assert [line["step"] for line in metrics.lines()] == [10, 20, 30]


def test_a_full_disk_costs_lines_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(tmp_path)
    metrics.add({"step": 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "t')  # what a disk took before it was full
    (tmp_path / "metrics.jsonl").rename(tmp_path / "kept")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    metrics.add({"step": 20})
    assert "lacks the line of step 20: " in caplog.text
    (tmp_path / "kept").rename(tmp_path / "metrics.jsonl")
    metrics.add({"step": 30})
    assert metrics.lines() == [{"step": 10}, {"step": 30}]


def test_a_roll_back_leaves_no_line_of_what_it_undid(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    recipe = replace(small_recipe(), on_anomaly="roll_back", spike_nats=1.0)
    one = recipe.tokens_per_step
    counting, noise = Mixture({"counting": 1.0}), Mixture({"noise": 1.0})
    spike = MixtureSchedule((Stage(counting, 25 * one), Stage(noise, one), Stage(counting)))
    train(recipe, corpus, spike, seed=1, threads=1, folder=tmp_path)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [10, 20, 30, 40]
    assert [line["skipped"] for line in found] == [0, 2, 8, 8]


def test_progress_has_what_a_terminal_shows(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    told: list[TrainingProgress] = []
    train(small_recipe(), corpus, mixture, seed=1, threads=1, progress=told.append)
    last = told[-1]
    assert (last.tokens, last.learning_rate, last.skipped) == (10_240, 0.01, 0)
    assert last.gradient_norm > 0
    assert last.memory_bytes > 1e6
    assert last.execution == "cpu, eager"
    assert last.mfu is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla T4", None),
        ("AMD EPYC", None),
    ],
)
def test_peaks_are_those_of_the_device_named(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_tinyllamas_published_utilisation_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """24,000 tokens/s on an A100-40G are 56 % (jzhang38/TinyLlama, README)."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    device, recipe = torch.device("cuda"), tinyllama_1b()
    assert utilisation(recipe, 24_000, device, 1) == pytest.approx(0.563, abs=5e-4)
    assert utilisation(recipe, 16 * 24_000, device, 16) == pytest.approx(0.563, abs=5e-4)
    assert utilisation(replace(recipe, precision="float32"), 24_000, device, 1) is None
    assert utilisation(recipe, 24_000, torch.device("cpu"), 1) is None
    assert metrics_module.MFU_FORMULA.value == "6 (N - input embedding) + 12 L d T"
