"""A run may begin with given weights while the stream of tokens goes on: a run like any other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidRecipe, MissingFile, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule
from mixlab.training import Beginning, Branch, TrainingResult, train
from mixlab.training.data import sampler_of
from mixlab.training.decoder import Decoder
from mixlab.training.optimiser import adamw
from mixlab.training.running import run_spec
from mixlab.training.spec import RunSpec
from mixlab.training.stacked import StackedRun, train_stacked
from tests.training.conftest import small_recipe

MIXTURE = Mixture({"counting": 0.7, "noise": 0.3})
RECIPE = small_recipe(12)
READ = 5 * RECIPE.tokens_per_step


def written(folder: Path, seed: int, **changes: Any) -> Path:
    """The weights that a run of this seed has before its first update."""
    shape = replace(RECIPE.architecture, **changes)
    model = Decoder(shape)
    model.initialise(seed)
    file = folder / f"seed-{seed}.safetensors"
    save_file({name: weight.detach() for name, weight in model.named_parameters()}, file)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, seed=1)


def begun(corpus: TokenisedCorpus, beginning: Beginning | None, **options: Any) -> TrainingResult:
    return train(RECIPE, corpus, MIXTURE, seed=1, threads=1, beginning=beginning, **options)


def test_a_run_that_begins_with_its_own_first_weights_is_the_run_without(
    corpus: TokenisedCorpus, tmp_path: Path, file: Path
) -> None:
    plain = begun(corpus, None, folder=tmp_path / "plain")
    given = begun(corpus, Beginning(file), folder=tmp_path / "given")
    assert given.observations == plain.observations
    assert given.consumed == plain.consumed
    ours, theirs = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("given", "plain")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_come_from_the_file_tokens_from_where_the_stream_was_and_rates_from_zero(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    """Against a loop of its own: fresh AdamW, the recipe's first rates, rows after READ tokens."""
    file = written(tmp_path, seed=9)
    seen: list[float] = []
    recipe = replace(RECIPE, evaluation_steps=tuple(range(1, 13)))
    result = train(recipe, corpus, MIXTURE, seed=1, threads=1, beginning=Beginning(file, READ),
                   progress=lambda now: seen.append(now.train_loss_nats or 0.0))  # fmt: skip
    model = Decoder(recipe.architecture)
    model.initialise(9)
    optimiser = adamw(model, recipe)
    from_start = sampler_of(recipe, corpus, MixtureSchedule.of(MIXTURE), seed=1, max_epochs=None)
    losses = []
    for update in range(1, 13):
        tokens = torch.from_numpy(from_start.batch(update - 1 + 5))
        logits = model(tokens[:, :-1]).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, update / recipe.warmup_steps)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert seen == pytest.approx(losses, abs=1e-5)
    assert sum(result.consumed[0]["tokens"].values()) == recipe.tokens_per_step


def test_a_begun_run_that_is_stopped_goes_on_to_the_last_bit(
    corpus: TokenisedCorpus, tmp_path: Path, file: Path
) -> None:
    whole = begun(corpus, Beginning(file, READ), folder=tmp_path / "whole")
    calls = iter([False] * 6 + [True] * 9)
    stopped = begun(
        corpus, Beginning(file, READ), folder=tmp_path / "parts", stop=lambda: next(calls)
    )
    assert (stopped.ended, stopped.step) == ("stopped", 7)
    again = begun(corpus, Beginning(file, READ), folder=tmp_path / "parts")
    assert again.observations == whole.observations
    assert again.consumed == whole.consumed


def test_weights_and_tokens_of_its_beginning_tell_a_run_from_others(
    corpus: TokenisedCorpus, tmp_path: Path, file: Path
) -> None:
    begun(corpus, Beginning(file, READ), folder=tmp_path / "run")
    begun(corpus, None, folder=tmp_path / "plain")
    others = (None, Beginning(file), Beginning(written(tmp_path, seed=2), READ))
    for other in others:
        with pytest.raises(InvalidRecipe, match="another beginning"):
            begun(corpus, other, folder=tmp_path / "run")
    with pytest.raises(InvalidRecipe, match="another beginning"):
        begun(corpus, Beginning(file), folder=tmp_path / "plain")
    moved = file.rename(tmp_path / "moved.safetensors")
    assert begun(corpus, Beginning(moved, READ), folder=tmp_path / "run").step == 12


def test_a_stack_refuses_the_folder_of_a_begun_run(
    corpus: TokenisedCorpus, tmp_path: Path, file: Path
) -> None:
    begun(corpus, Beginning(file, READ), folder=tmp_path / "run")
    runs = [StackedRun(MIXTURE, 1, folder=tmp_path / "run")]
    with pytest.raises(InvalidRecipe, match="another beginning"):
        train_stacked(RECIPE, corpus, runs, threads=1)


def test_a_begun_run_is_no_branch_and_no_trunk(
    corpus: TokenisedCorpus, tmp_path: Path, file: Path
) -> None:
    begun(corpus, Beginning(file, READ), folder=tmp_path / "run", milestones=(8,))
    branch = Branch(tmp_path / "run", 8, 2)
    with pytest.raises(InvalidRecipe, match=r"start.* or begins with given weights"):
        begun(corpus, Beginning(file, READ), start=branch)
    with pytest.raises(InvalidRecipe, match="another beginning up to step 8"):
        begun(corpus, None, start=branch)


def test_weights_that_are_none_of_the_recipe_are_refused_before_any_work(
    corpus: TokenisedCorpus, tmp_path: Path, file: Path
) -> None:
    wider = written(tmp_path, seed=3, width=24)
    deeper = written(tmp_path, seed=4, layers=3)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(file.read_bytes()[:-8])
    for given, kind, told in (
        (wider, InvalidRecipe, r"is \[.*24.*\] in the file and \[.*16.*\] in the recipe"),
        (deeper, InvalidRecipe, r"blocks\.2\..* in the file and no such weight in the recipe"),
        (tmp_path / "none.safetensors", MissingFile, "no weights .*none"),
        (damaged, TruncatedFile, "can't be read"),
    ):
        with pytest.raises(kind, match=told):
            begun(corpus, Beginning(given), folder=tmp_path / "refused")
    with pytest.raises(InvalidRecipe, match="multiple of its context of 32"):
        begun(corpus, Beginning(file, 33), folder=tmp_path / "refused")
    for tokens in (-32, 1.5, True):
        with pytest.raises(InvalidRecipe, match="whole number of tokens"):
            Beginning(file, tokens)  # type: ignore[arg-type]
    assert not (tmp_path / "refused").exists()


def test_a_spec_trains_from_its_beginning(
    corpus: TokenisedCorpus, tmp_path: Path, file: Path
) -> None:
    spec = RunSpec(corpus.folder, RECIPE, MixtureSchedule.of(MIXTURE), tmp_path / "run", seed=1,
                   threads=1, beginning=Beginning(file, READ))  # fmt: skip
    assert RunSpec.read(spec.write(tmp_path / "spec.json")) == spec
    relative = spec.to_dict() | {"beginning": {"weights": file.name, "tokens": READ}}
    assert RunSpec.from_dict(relative, tmp_path).beginning == Beginning(file, READ)
    ended = run_spec(spec, emit=lambda _: None, stop=lambda: False)
    expected = begun(corpus, Beginning(file, READ)).observations[-1]
    assert ended["observations"][-1]["losses_nats"] == expected.losses_nats
    with pytest.raises(InvalidRecipe, match=r"start.* or begins with given weights"):
        replace(spec, start=Branch(tmp_path, 3))
    # Weights that followed a smaller tokenizer have fewer rows than the recipe.
    wider = RECIPE.for_vocabulary(RECIPE.architecture.vocabulary + 9)
    again = replace(spec, recipe=wider, folder=tmp_path / "narrowed")
    narrowed = run_spec(again, emit=lambda _: None, stop=lambda: False)
    assert narrowed["observations"][-1]["losses_nats"] == expected.losses_nats
