"""`mixlab train`: what it reads, what it prints, and how it goes on."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cli.mixtures import schedule
from mixlab.errors import InvalidMixture, InvalidRecipe, MissingFile, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule
from tests.cli.training import train
from tests.workers.conftest import processes

HALF = {"counting": 0.5, "noise": 0.5}


class TestMixtures:
    SHARES: Mapping[str, Any] = HALF
    STAGES: Mapping[str, Any] = {
        "stages": [{"proportions": {"noise": 1.0}, "tokens": 64}, {"proportions": HALF}]
    }

    @pytest.mark.parametrize(
        "given",
        [
            SHARES,
            {"mixture": SHARES, "objective_nats": 3.0},  # mixlab solve --json
            {"fit": {}, "solution": {"mixture": SHARES}},  # mixlab fit --json
            {"id": "mix_1", "proportions": SHARES, "report": {}},  # GET /mixtures/{id}
        ],
    )
    def test_a_mixture_is_found_wherever_it_stands(
        self, tmp_path: Path, given: dict[str, Any]
    ) -> None:
        expected = MixtureSchedule.of(Mixture(HALF))
        assert schedule(json.dumps(given)) == expected
        (tmp_path / "answer.json").write_text(json.dumps(given))
        assert schedule(str(tmp_path / "answer.json")) == expected

    def test_shares_may_stand_on_the_command_line(self) -> None:
        assert schedule("counting=0.5, noise=0.5") == MixtureSchedule.of(Mixture(HALF))

    def test_a_schedule_is_one_too(self) -> None:
        found = schedule(json.dumps(self.STAGES))
        assert found == MixtureSchedule.from_dict(self.STAGES)
        assert schedule(json.dumps({"schedule": self.STAGES})) == found

    @pytest.mark.parametrize(
        ("given", "kind", "told"),
        [
            ("nowhere.json", MissingFile, "no such file"),
            ('{"counting": ', TruncatedFile, "no JSON"),
            ('{"objective_nats": "low"}', InvalidMixture, "no mixture"),
            ("{}", InvalidMixture, "no mixture"),
            ('{"counting": 0.5}', InvalidMixture, "sum to 1"),
            ('{"noise": 0.3, "counting": 0.1, "counting": 0.7}', InvalidMixture, "twice"),
            (sys.executable, TruncatedFile, "no JSON"),
            ('{"stages": []}', InvalidMixture, "at least one stage"),
        ],
    )
    def test_what_is_none_is_refused(self, given: str, kind: type[Exception], told: str) -> None:
        with pytest.raises(kind, match=told):
            schedule(given)


def test_losses_and_tokens_by_domain_and_epoch_are_printed(folder: Path) -> None:
    done = train(folder)
    assert done.exit_code == 0, done.output
    assert "Validation loss" in done.stdout
    assert re.search(r"noise +1 +3,0\d\d +\d\d\.\d %", done.stdout), done.stdout
    assert "12 steps in" in done.stdout
    assert (folder / "run" / "weights.safetensors").is_file()
    again = train(folder, "--json")  # finished before: nothing is trained
    told = json.loads(again.stdout)
    assert (told["ended"], told["step"]) == ("done", 12)
    assert sum(sum(part["tokens"].values()) for part in told["consumed"]) == 12 * 512
    assert set(told["observations"][-1]["losses_nats"]) == set(HALF)


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"seed": "4"}, InvalidRecipe, "another seed"),
        ({"mixture": "noise=1"}, InvalidRecipe, "another schedule"),
        ({"steps": "13"}, InvalidRecipe, "another recipe"),
        ({"corpus": "/nowhere", "out": "/tmp/none"}, MissingFile, "no folder /nowhere"),
        ({"sharding": "tensor"}, InvalidRecipe, "auto, replicate or shard"),
        ({"tracker": "abacus"}, InvalidRecipe, "abacus"),
        ({"mixture": "law=1", "out": None}, InvalidMixture, "law"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_the_run_stays_as_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str], kind: type[Exception], told: str,
) -> None:  # fmt: skip
    assert train(folder).exit_code == 0
    before = (folder / "run" / "spec.json").read_text()
    monkeypatch.chdir(tmp_path)
    done = train(folder, **changes)
    assert isinstance(done.exception, kind)
    assert told in str(done.exception)
    assert (folder / "run" / "spec.json").read_text() == before


def test_a_slip_that_trained_nothing_leaves_the_folder_free(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert isinstance(train(folder, mixture="law=1", out=out).exception, InvalidMixture)
    assert train(folder, out=out).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"corpus": None}, "--corpus"),
        ({"recipe": None}, "--recipe"),
        ({"mixture": None}, "--mixture"),
        ({"decay-steps": "3"}, "--branch-from"),
        ({"branch-from": "x"}, "FOLDER@STEP"),
        ({"branch-from": "x@3"}, "--decay-steps"),
    ],
)
def test_what_is_missing_is_named(folder: Path, changes: dict[str, str | None], told: str) -> None:
    done = train(folder, **changes)
    assert done.exit_code == 2
    assert told in done.output


def test_a_branch_takes_all_but_its_decay_from_its_trunk(folder: Path) -> None:
    trunk = train(folder, "--milestone", "6", "--milestone", "12", out=str(folder / "trunk"))
    assert trunk.exit_code == 0, trunk.output
    given = dict.fromkeys(("corpus", "recipe", "mixture", "steps", "out"))
    done = train(
        folder, "--json", **given,
        **{"branch-from": f"{folder / 'trunk'}@6", "decay-steps": "4"},
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["step"] == 10
    assert told["folder"] == str(folder / "trunk-at-6-decay-4")
    refused = train(folder, **{"branch-from": f"{folder / 'trunk'}@6", "decay-steps": "4"})
    assert refused.exit_code == 2
    assert "trunk's" in refused.output


def test_several_hosts_are_told_what_to_start(folder: Path) -> None:
    done = train(folder, hosts="2", processes="8", out=str(folder / "wide"))
    assert done.exit_code == 0, done.output
    assert "torchrun --nnodes 2 --nproc-per-node 8" in done.stdout
    assert f"-m mixlab.training {folder / 'wide' / 'spec.json'}" in done.stdout
    assert not (folder / "wide" / "checkpoints").exists()


COMMAND = (sys.executable, "-m", "cli.main", "train", "--recipe", "proxy_smoke", "--threads", "1",
           "--mixture", "counting=0.5,noise=0.5", "--steps", "2000")  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_makes_a_checkpoint_and_the_same_command_goes_on_from_it(folder: Path) -> None:
    out = folder / "broken"
    command = [*COMMAND, "--corpus", str(folder / "corpus"), "--out", str(out)]
    with subprocess.Popen(
        [*command, "--processes", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        while not (out / "metrics.jsonl").is_file():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopped after step" in said
    assert "the same command goes on" in said
    (kept,) = (out / "checkpoints").glob("step-*")
    step = int(kept.name.removeprefix("step-"))
    assert 0 < step < 2000
    assert f"stopped after step {step}" in said


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_processes_end_with_what_one_ends_with(folder: Path) -> None:
    alone = train(folder, "--json", steps="40", out=str(folder / "one"))
    both = train(folder, "--json", steps="40", out=str(folder / "two"), processes="2")
    assert both.exit_code == 0, both.output
    one, two = json.loads(alone.stdout), json.loads(both.stdout)
    assert two["consumed"] == one["consumed"]
    for seen, expected in zip(two["observations"], one["observations"], strict=True):
        assert seen["losses_nats"] == pytest.approx(expected["losses_nats"], abs=1e-5)
    weights = [load_file(folder / name / "weights.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-4, rtol=0)
    assert not processes(str(folder / "two"))


def test_a_shape_that_a_search_found_is_trained(folder: Path) -> None:
    done = train(folder, "--shape", "layers=3, ffn_width=40", out=str(folder / "shaped"))
    assert done.exit_code == 0, done.output
    weights = load_file(folder / "shaped" / "weights.safetensors")
    downs = [weight for name, weight in weights.items() if name.endswith("ffn.down.weight")]
    assert [down.shape[1] for down in downs] == [40, 40, 40]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("depth=3", "'depth=3' is no size"),
        ("layers=-3", "is no size"),
        ("layers=3,layers=4", "layers is given twice"),
        ("", "'' is no size"),
    ],
)
def test_what_is_no_shape_is_told(folder: Path, given: str, told: str) -> None:
    done = train(folder, "--shape", given, out=str(folder / "refused"))
    assert done.exit_code == 2
    assert told in " ".join(done.output.replace("│", " ").split())
    assert not (folder / "refused").exists()


def test_a_shape_whose_heads_do_not_fit_is_told(folder: Path) -> None:
    with pytest.raises(InvalidRecipe, match="7"):
        raise train(folder, "--shape", "heads=7").exception or AssertionError
