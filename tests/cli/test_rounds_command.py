"""`mixlab train --rounds` and `--begin-with`, and what doesn't go with them."""

import json
from pathlib import Path

import pytest

from mixlab.errors import InvalidRecipe
from tests.cli.training import train


def test_rounds_are_told_as_one_run_and_go_on_as_one(folder: Path) -> None:
    out = str(folder / "rounds")
    options = ("--rounds", "2", "--free-proportions", "--out", out)
    done = train(folder, *options)
    assert done.exit_code == 0, done.output
    for stage in ("round 1 of 2", "score round 1 of 2", "round 2 of 2"):
        assert stage in done.stderr
    told = json.loads(train(folder, *options, "--json").stdout)
    assert (told["ended"], told["step"]) == ("done", 12)
    with pytest.raises(InvalidRecipe, match="holds a run in rounds"):
        raise train(folder, "--out", out).exception or AssertionError


def test_a_run_begins_with_the_weights_of_another(folder: Path) -> None:
    before, after = (folder / name for name in ("before", "after"))
    assert train(folder, "--out", str(before)).exit_code == 0
    weights = before / "weights.safetensors"
    options = ("--begin-with", str(weights), "--out", str(after), "--json")
    losses = [
        json.loads(done.stdout)["observations"][0]["losses_nats"]["counting"]
        for done in (train(folder, "--out", str(before), "--json"), train(folder, *options))
    ]
    assert losses[1] < losses[0]
    assert train(folder, "--begin-with", str(folder / "none"), "--out", str(folder / "x")).exception


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--round-share", "0.5"), "needs --rounds"),
        (("--free-proportions",), "needs --rounds"),
        (("--rounds", "2", "--grow", "2"), "leave out one"),
        (("--rounds", "2", "--hosts", "2"), "only one host"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    folder: Path, options: tuple[str, ...], says: str
) -> None:
    done = train(folder, *options, "--out", str(folder / "refused"))
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.replace("\u2502", " ").split())
