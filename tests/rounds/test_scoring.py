"""Scores of what a run read: in parts, after a stop, beside its training losses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import InvalidRecipe, MissingFile
from mixlab.mixture import Mixture
from mixlab.rounds.drawing import draw
from mixlab.rounds.scores import read_scores
from mixlab.rounds.scoring import score, scored_run
from mixlab.schedules import MixtureSchedule
from mixlab.training.loop import train
from tests.training.conftest import small_recipe


class TestScoring:
    def test_parts_make_up_the_whole_and_match_the_training_losses(
        self, corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
    ) -> None:
        """At a rate so small that weights stay, a step's mean score is its training loss."""
        recipe = replace(small_recipe(20), learning_rate=1e-12, warmup_steps=0)
        seen: list[float] = []
        result = train(
            recipe, corpus, mixture, seed=3, folder=tmp_path / "run",
            progress=lambda now: seen.append(now.train_loss_nats or 0.0),
        )  # fmt: skip
        assert result.weights is not None
        run = scored_run(recipe, MixtureSchedule.of(mixture), 3, corpus)

        def scored(folder: Path, parts: int) -> tuple[np.ndarray, np.ndarray]:
            for part in range(parts):
                assert score(
                    recipe, corpus, mixture, seed=3, weights=result.weights or Path(),
                    folder=folder, part=part, parts=parts,
                )  # fmt: skip
            found = read_scores(folder, parts, tuple(sorted(mixture.domains)), run)
            return found.step, found.loss_nats

        steps, losses = scored(tmp_path / "one", 1)
        assert steps.tolist() == np.repeat(np.arange(1, 21), 8).tolist()
        three = scored(tmp_path / "three", 3)
        assert (three[0] == steps).all()
        assert (three[1] == losses).all()
        assert losses[-80:].mean() == pytest.approx(seen[-1], rel=1e-5)

    def test_a_stop_leaves_no_half_part_and_other_scores_are_told(
        self, corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
    ) -> None:
        recipe = small_recipe(6)
        result = train(recipe, corpus, mixture, seed=3, folder=tmp_path / "run")
        weights, folder = result.weights or Path(), tmp_path / "scores"
        asked = iter([False, False, True])
        assert not score(
            recipe, corpus, mixture, seed=3, weights=weights, folder=folder,
            stop=lambda: next(asked),
        )  # fmt: skip
        with pytest.raises(MissingFile, match="part-0000-of-0001"):
            read_scores(folder, 1, corpus.domains, {})
        assert score(recipe, corpus, mixture, seed=3, weights=weights, folder=folder)
        with pytest.raises(InvalidRecipe, match="another run"):
            read_scores(folder, 1, corpus.domains, {"seed": 4})
        run = scored_run(recipe, MixtureSchedule.of(mixture), 3, corpus)
        assert len(draw(read_scores(folder, 1, corpus.domains, run), 0.5, seed=1).windows) == 2
