"""A branch is the run that had its schedule from the start, and continues only its own trunk."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidRecipe, MissingFile
from mixlab.mixture import Mixture
from mixlab.recipes import Recipe
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training import Branch, train
from mixlab.training.decayed import decayed_ends, trunk_of
from mixlab.training.decoder import Decoder
from mixlab.training.weights import load_weights
from tests.training.conftest import small_recipe

FORK = 20


def weights(recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    model = Decoder(recipe.architecture)
    load_weights(folder / "weights.safetensors", model)
    return {name: weight.detach() for name, weight in model.named_parameters()}


def decayed(recipe: Recipe) -> Recipe:
    return replace(
        recipe, schedule="wsd", steps=FORK + 10, decay_steps=10, evaluation_steps=(15, FORK + 10)
    )


@pytest.fixture(scope="module")
def trunk(corpus: TokenisedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trunk")
    train(small_recipe(), corpus, Mixture({"counting": 0.7, "noise": 0.3}), seed=1, threads=1,
          folder=folder, milestones=(FORK,), keep_last=1)  # fmt: skip
    return folder


@pytest.mark.parametrize("how", ["own recipe", "trunk's recipe"])
def test_a_branch_is_the_run_with_its_schedule_from_the_start(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path, trunk: Path, how: str
) -> None:
    recipe = decayed(small_recipe())
    whole = train(recipe, corpus, mixture, seed=1, threads=1, folder=tmp_path / "whole")
    begin = Branch(trunk, FORK, None if how == "own recipe" else 10)
    branch = train(
        recipe if how == "own recipe" else small_recipe(), corpus, mixture,
        seed=1, threads=1, folder=tmp_path / "branch", start=begin,
    )  # fmt: skip
    ours, theirs = weights(recipe, tmp_path / "branch"), weights(recipe, tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert branch.observations[-1] == whole.observations[-1]
    assert branch.step == FORK + 10


def test_a_branchs_pace_is_that_of_its_own_updates(
    corpus: TokenisedCorpus, mixture: Mixture, trunk: Path
) -> None:
    seconds = count()  # each look at the clock takes one, so that each update does
    branch = train(small_recipe(), corpus, mixture, seed=1, threads=1,
                   start=Branch(trunk, FORK, 10), clock=lambda: float(next(seconds)))  # fmt: skip
    assert branch.tokens_per_second == small_recipe().tokens_per_step


def test_a_branch_resumes_without_its_trunk(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path, trunk: Path
) -> None:
    recipe = decayed(small_recipe())

    def attempt(folder: str, begin: Branch, stop_at: int = 1000) -> object:
        asked = iter([False] * (stop_at - 1) + [True] * 1000)
        return train(recipe, corpus, mixture, seed=1, threads=1, folder=tmp_path / folder,
                     start=begin, stop=lambda: next(asked))  # fmt: skip

    whole = attempt("whole", Branch(trunk, FORK))
    assert attempt("parts", Branch(trunk, FORK), stop_at=4).step == FORK + 4
    assert attempt("parts", Branch(tmp_path / "gone", FORK)).observations == whole.observations


def test_a_branch_may_change_what_lies_ahead_of_it(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path, trunk: Path
) -> None:
    ahead = FORK * small_recipe().tokens_per_step
    turned = MixtureSchedule((Stage(mixture, ahead), Stage(Mixture({"counting": 1.0}))))
    branch = train(small_recipe(), corpus, turned, seed=1, threads=1,
                   start=Branch(trunk, FORK, 10))  # fmt: skip
    whole = train(decayed(small_recipe()), corpus, turned, seed=1, threads=1)
    assert branch.observations[-1] == whole.observations[-1]
    read = branch.observations[-1].mixture.proportions["counting"]
    assert read == pytest.approx((0.7 * FORK + 10) / (FORK + 10), abs=0.01)


def test_a_branch_of_another_run_is_refused(
    corpus: TokenisedCorpus, mixture: Mixture, trunk: Path
) -> None:
    recipe = decayed(small_recipe())
    faster = replace(recipe, learning_rate=0.02)
    other = Mixture({"counting": 0.5, "noise": 0.5})
    early = MixtureSchedule((Stage(mixture, 1000), Stage(other)))
    falling = replace(recipe, decay_steps=11)
    ramping = MixtureSchedule((Stage(mixture, 4000), Stage(other, None, 5000)))
    for asked, shares, seed, told in (
        (recipe, mixture, 2, "another seed up to step 20"),
        (recipe, other, 1, "another mixture up"),
        (recipe, early, 1, "another mixture up"),
        (recipe, ramping, 1, "another mixture up"),
        (faster, mixture, 1, "another learning_rate and learning rate up"),
        (falling, mixture, 1, "another learning rate up"),
        (replace(recipe, weight_decay=0.0), mixture, 1, "another weight_decay up"),
        (replace(recipe, batch_stages=((FORK, 4),)), mixture, 1, "another size of batches up"),
    ):
        with pytest.raises(InvalidRecipe, match=told):
            train(asked, corpus, shares, seed=seed, start=Branch(trunk, FORK))


def test_a_checkpoint_that_is_not_there_is_named(
    corpus: TokenisedCorpus, mixture: Mixture, trunk: Path
) -> None:
    with pytest.raises(MissingFile, match=r"step-000000019 to branch from; .*milestones=\(19,\)"):
        train(decayed(small_recipe()), corpus, mixture, seed=1, start=Branch(trunk, 19))


def test_one_run_gives_many_decayed_ends(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    found = decayed_ends(
        small_recipe(), corpus, mixture,
        steps=(30, 40), decay_steps=10, seed=1, folder=tmp_path, threads=1,
    )  # fmt: skip
    assert [end.step for end in found.ends] == [30, 40]
    assert {seen.run for seen in found.observations} == {"decayed"}
    assert found.trunk.step == 30
    for end in found.ends:
        recipe = replace(small_recipe(), schedule="wsd", steps=end.step, decay_steps=10,
                         evaluation_steps=(end.step,))  # fmt: skip
        alone = train(recipe, corpus, mixture, seed=1, threads=1)
        assert end.observation.losses_nats == alone.observations[0].losses_nats


@pytest.mark.parametrize(
    ("changes", "steps", "told"),
    [({}, (12, 40), "begin its decay after 2, but small warms up for 5"),
     ({"schedule": "cosine"}, (30,), "has a cosine rate")],
)  # fmt: skip
def test_ends_without_a_plateau_are_refused(
    changes: dict[str, str], steps: tuple[int, ...], told: str
) -> None:
    with pytest.raises(InvalidRecipe, match=told):
        trunk_of(replace(small_recipe(), **changes), steps, 10)
