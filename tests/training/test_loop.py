"""The loop: it learns what can be learned, repeats itself exactly, and says when it fails."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file

from mixlab.corpora.shards import TokenisedCorpus, write_corpus
from mixlab.errors import Diverged, DomainTooSmall, InvalidMixture, InvalidRecipe, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule, Stage
from mixlab.training import TrainingProgress, TrainingResult, placement, train
from mixlab.training.batches import Batches
from mixlab.training.data import sampler_of
from mixlab.training.decoder import Decoder
from mixlab.training.engine import Engine
from mixlab.training.objective import NextTokenLoss, recompute
from mixlab.training.optimiser import learning_rate
from mixlab.training.parallel import World
from mixlab.training.weights import load_weights
from tests.training.conftest import END, VOCABULARY, small_recipe, write_small_corpus


def losses(result: TrainingResult) -> list[dict[str, float]]:
    return [dict(seen.losses_nats) for seen in result.observations]


def test_it_learns_the_pattern_and_not_the_noise(corpus: TokenisedCorpus, mixture: Mixture) -> None:
    last = train(small_recipe(200), corpus, mixture, seed=0, threads=1).observations[-1]
    assert last.losses_nats["counting"] < 0.6
    # The noise has 63 equally likely tokens; less than their entropy would be a leak.
    assert last.losses_nats["noise"] > math.log(63) - 0.1


def test_two_runs_of_a_seed_are_equal_to_the_last_bit(
    corpus: TokenisedCorpus, mixture: Mixture
) -> None:
    one, again, other = (
        train(small_recipe(), corpus, mixture, seed=seed, threads=1) for seed in (3, 3, 4)
    )
    assert losses(one) == losses(again)
    assert losses(one) != losses(other)


def test_observations_and_consumed_tokens_are_complete(
    corpus: TokenisedCorpus, mixture: Mixture
) -> None:
    recipe = replace(small_recipe(40), evaluation_steps=(10, 30))
    result = train(recipe, corpus, mixture, seed=0, threads=1)
    assert [(seen.step, seen.tokens) for seen in result.observations] == [(10, 2560), (30, 7680)]
    assert {seen.params for seen in result.observations} == {recipe.architecture.parameters}
    assert all(seen.mixture == mixture and not seen.run for seen in result.observations)
    ranges = [(entry["from_step"], entry["to_step"]) for entry in result.consumed]
    assert ranges == [(0, 10), (10, 30), (30, 40)]
    for entry in result.consumed:
        budget = (entry["to_step"] - entry["from_step"]) * recipe.tokens_per_step
        for name, share in mixture:
            assert abs(entry["tokens"][name] - share * budget) <= recipe.tokens_per_step
    assert result.evaluation_tokens == {"counting": 512, "noise": 512}
    assert result.execution == "cpu, eager"
    assert result.weights is None
    assert result.tokens_per_second > 0
    assert result.peak_memory_bytes > 1e6


def test_progress_rises_to_the_end_and_carries_the_observations(
    corpus: TokenisedCorpus, mixture: Mixture
) -> None:
    told: list[TrainingProgress] = []
    result = train(small_recipe(), corpus, mixture, seed=0, threads=1, progress=told.append)
    assert [now.step for now in told] == sorted({now.step for now in told})
    assert told[-1].step == told[-1].steps == 40
    assert told[-1].eta_seconds == 0
    found = [now.observation for now in told if now.observation]
    assert tuple(found) == result.observations


def test_the_saved_weights_are_the_trained_ones(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    recipe = small_recipe()
    result = train(recipe, corpus, mixture, seed=0, threads=1, folder=tmp_path)
    assert result.weights == tmp_path / "weights.safetensors"
    model = Decoder(recipe.architecture)
    load_weights(result.weights, model)
    stream = corpus.stream("counting", "validation")
    window = torch.from_numpy(stream.windows([0], 33))
    with torch.no_grad():
        guesses = model(window[:, :-1]).argmax(dim=-1)
    assert (guesses == window[:, 1:]).float().mean() > 0.5


def test_gradients_are_clipped(corpus: TokenisedCorpus, mixture: Mixture) -> None:
    """Clipped to next to nothing they drown in AdamW's epsilon, and nothing is learned."""
    held = replace(small_recipe(), gradient_clip=1e-12, weight_decay=0.0)
    last = train(held, corpus, mixture, seed=0, threads=1).observations[-1]
    free = train(small_recipe(), corpus, mixture, seed=0, threads=1).observations[-1]
    assert last.losses_nats["counting"] > free.losses_nats["counting"] + 0.5


def test_gradient_accumulation_gives_the_same_run(
    corpus: TokenisedCorpus, mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(small_recipe(), corpus, mixture, seed=0, threads=1)
    monkeypatch.setitem(placement.MICRO_BATCH_TOKENS, "cpu", 3 * 32)
    split = train(small_recipe(), corpus, mixture, seed=0, threads=1)
    for one, other in zip(losses(whole), losses(split), strict=True):
        assert one == pytest.approx(other, abs=2e-3)


def test_without_a_compiler_it_runs_eagerly_and_says_so(
    corpus: TokenisedCorpus, mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_cpp_compiler", lambda: None)
    recipe = replace(small_recipe(4), compiled=True)
    result = train(recipe, corpus, mixture, seed=0, threads=1)
    assert result.execution == "cpu, eager: no C++ compiler found"
    assert losses(result) == losses(train(small_recipe(4), corpus, mixture, seed=0, threads=1))


@pytest.mark.slow
def test_compiled_losses_are_the_eager_ones(corpus: TokenisedCorpus, mixture: Mixture) -> None:
    if placement._cpp_compiler() is None:
        pytest.skip("this machine has no C++ compiler")
    recipe = small_recipe(6)
    recipe = replace(recipe, architecture=replace(recipe.architecture, layers=1))
    compiled = train(replace(recipe, compiled=True), corpus, mixture, seed=0, threads=1)
    eager = train(recipe, corpus, mixture, seed=0, threads=1)
    for one, other in zip(losses(compiled), losses(eager), strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    if compiled.execution != "cpu, compiled":
        # A compiler without its headers or OpenMP: the run went on eagerly, as it should.
        pytest.skip(f"this machine's C++ compiler doesn't serve: {compiled.execution}")


def test_a_compiler_that_fails_costs_speed_and_not_the_run(
    corpus: TokenisedCorpus, mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **options: object) -> object:
        def call(*inputs: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no such header: omp.h")

        return call

    monkeypatch.setattr(placement, "_cpp_compiler", lambda: "/usr/bin/c++")
    monkeypatch.setattr(torch, "compile", failing)
    result = train(replace(small_recipe(2), compiled=True), corpus, mixture, seed=0, threads=1)
    assert "compiling failed (RuntimeError: no such header: omp.h)" in result.execution


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_diverged_run_says_where(corpus: TokenisedCorpus, mixture: Mixture, rate: float) -> None:
    recipe = replace(small_recipe(), learning_rate=rate)
    with pytest.raises(Diverged, match=r"small diverged: the .* loss .* at step \d+ of 40.*lower"):
        train(recipe, corpus, mixture, seed=0, threads=1)


def test_a_corpus_with_more_tokens_than_the_recipe_is_refused(
    corpus: TokenisedCorpus, mixture: Mixture
) -> None:
    recipe = small_recipe()
    narrow = replace(recipe, architecture=replace(recipe.architecture, vocabulary=32))
    with pytest.raises(InvalidRecipe, match="vocabulary of 32, but the corpus uses 64"):
        train(narrow, corpus, mixture, seed=0, threads=1)
    train(narrow.lasting(1).for_vocabulary(64), corpus, mixture, seed=0)


def test_a_mixture_of_other_domains_is_refused(corpus: TokenisedCorpus) -> None:
    with pytest.raises(InvalidMixture, match="names poems"):
        train(small_recipe(), corpus, Mixture({"poems": 1.0}), seed=0, threads=1)


def test_threads_are_put_back(corpus: TokenisedCorpus, mixture: Mixture) -> None:
    before = torch.get_num_threads()
    train(small_recipe(2), corpus, mixture, seed=0, threads=before + 1)
    assert torch.get_num_threads() == before


def test_a_domain_smaller_than_one_sequence_is_named(tmp_path: Path) -> None:
    documents = {
        "big": {"train": [range(1, 60)] * 20, "validation": [range(1, 60)]},
        "small": {"train": [range(1, 10)], "validation": [range(1, 10)]},
    }
    corpus = write_corpus(tmp_path, documents, vocabulary=VOCABULARY, end_of_text_id=END)
    with pytest.raises(DomainTooSmall, match="'small' has 10 training tokens"):
        train(small_recipe(), corpus, Mixture({"big": 0.5, "small": 0.5}), seed=0, threads=1)
    # It still counts as a target for a run that doesn't train on it.
    alone = train(small_recipe(2), corpus, Mixture({"big": 1.0, "small": 0.0}), seed=0, threads=1)
    assert alone.evaluation_tokens == {"big": 32, "small": 9}


def test_a_stopped_run_goes_on_to_the_same_end(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    whole = train(small_recipe(), corpus, mixture, seed=0, threads=1)
    asked = iter([False] * 24 + [True])
    options = {"seed": 0, "threads": 1, "folder": tmp_path}
    stopped = train(small_recipe(), corpus, mixture, stop=lambda: next(asked), **options)
    assert (stopped.ended, stopped.step, stopped.weights) == ("stopped", 25, None)
    assert "stopped after update 25 of 40" in stopped.note
    assert [(entry["from_step"], entry["to_step"]) for entry in stopped.consumed] == [
        (0, 20), (20, 25),
    ]  # fmt: skip
    resumed = train(small_recipe(), corpus, mixture, **options)
    assert (resumed.ended, resumed.step, resumed.note) == ("done", 40, "")
    assert losses(resumed) == losses(whole)
    assert resumed.consumed == whole.consumed


def test_a_stop_at_the_last_update_comes_too_late(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    asked = iter([False] * 3 + [True])
    result = train(small_recipe(4), corpus, mixture, seed=0, threads=1, folder=tmp_path,
                   stop=lambda: next(asked))  # fmt: skip
    assert (result.ended, result.step) == ("done", 4)
    assert result.weights.is_file()


def test_a_run_ends_before_a_domain_is_read_too_often(
    corpus: TokenisedCorpus, mixture: Mixture
) -> None:
    result = train(small_recipe(200), corpus, mixture, seed=0, threads=1, max_epochs=1.0)
    free = sampler_of(small_recipe(), corpus, MixtureSchedule.of(mixture), seed=0, max_epochs=None)
    windows = (len(corpus.stream("counting", "train")) - 1) // 32
    read = [free.consumed(0, result.step + more)["counting"] // 32 for more in (0, 1)]
    assert read[0] <= windows < read[1]
    assert result.ended == "exhausted"
    told = f"after update {result.step}: update {result.step + 1} of 200 would read counting more"
    assert told in result.note
    # It is measured where it ends, though its recipe doesn't say so.
    assert [seen.step for seen in result.observations] == [result.step]
    assert result.consumed[-1]["epochs"]["counting"] == [
        {"epoch": 0, "tokens": result.consumed[-1]["tokens"]["counting"]}
    ]
    with pytest.raises(DomainTooSmall, match="Already update 1 of 200 would read counting"):
        train(small_recipe(200), corpus, mixture, seed=0, max_epochs=0.01)


def test_observations_of_a_schedule_have_the_shares_that_were_read(
    corpus: TokenisedCorpus,
) -> None:
    recipe = replace(small_recipe(40), evaluation_steps=(20, 40))
    turned = MixtureSchedule(
        (
            Stage(Mixture({"counting": 1.0}), 20 * recipe.tokens_per_step),
            Stage(Mixture({"counting": 0.5, "noise": 0.5})),
        )
    )
    result = train(recipe, corpus, turned, seed=0, threads=1)
    read = [seen.mixture.proportions for seen in result.observations]
    assert dict(read[0]) == {"counting": 1.0, "noise": 0.0}
    assert read[1]["noise"] == pytest.approx(0.25, abs=0.005)
    first, second = (entry["tokens"] for entry in result.consumed)
    assert first == {"counting": 5120, "noise": 0}
    assert read[1]["noise"] == second["noise"] / 10_240


def test_batches_may_grow(corpus: TokenisedCorpus, mixture: Mixture) -> None:
    recipe = replace(small_recipe(), batch_stages=((11, 12), (31, 20)), evaluation_steps=(10, 40))
    result = train(recipe, corpus, mixture, seed=0, threads=1)
    sequences = 10 * 8 + 20 * 12 + 10 * 20
    assert result.observations[-1].tokens == 32 * sequences == recipe.tokens
    assert sum(result.consumed[1]["tokens"].values()) == 32 * (sequences - 80)


def test_blocks_computed_again_have_the_same_gradients(
    corpus: TokenisedCorpus, mixture: Mixture
) -> None:
    recipe = small_recipe()
    tokens = torch.from_numpy(
        sampler_of(recipe, corpus, MixtureSchedule.of(mixture), seed=0, max_epochs=None).batch(0)
    )
    gradients = []
    for again in (False, True):
        model = Decoder(recipe.architecture)
        model.initialise(0)
        if again:
            recompute(model.blocks)
        NextTokenLoss(model)(tokens).backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    options = {"seed": 0, "threads": 1}
    less = train(replace(recipe, activation_checkpointing=True), corpus, mixture, **options)
    assert losses(less) == losses(train(recipe, corpus, mixture, **options))


@pytest.mark.parametrize("again", [False, True])
def test_all_blocks_are_compiled_by_one_tracing(again: bool) -> None:
    """Also those that are computed again; and more of them than torch traces one by one."""
    model = Decoder(replace(small_recipe().architecture, layers=12))
    model.initialise(0)
    if again:
        recompute(model.blocks)
    traced = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        traced.append(graph)
        return graph.forward

    torch.compiler.reset()
    for block in model.blocks:
        block.compile(dynamic=False, backend=backend)
    NextTokenLoss(model)(torch.arange(33)[None]).backward()
    assert len(traced) == 1


def test_matrices_of_a_wide_model_are_updated_at_their_own_rate(
    corpus: TokenisedCorpus, mixture: Mixture
) -> None:
    shape = replace(small_recipe().architecture, tied_head=False)
    recipe = replace(small_recipe(), architecture=shape, base_width=shape.width // 4)
    batches = sampler_of(recipe, corpus, MixtureSchedule.of(mixture), seed=0, max_epochs=None)
    engine = Engine(recipe, batches, 0, World.alone(torch.device("cpu")))
    engine.gradients(1)
    engine.apply(1)
    rates = {id(w): group["lr"] for group in engine.optimiser.param_groups for w in group["params"]}
    full = learning_rate(recipe, 1)
    assert rates[id(engine.decoder.embedding.weight)] == full
    assert rates[id(engine.decoder.head.weight)] == full / 4


def test_bfloat16_products_keep_float32_weights_and_learn_as_much(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    recipe = replace(small_recipe(), precision="bfloat16")
    half = train(recipe, corpus, mixture, seed=0, threads=1, folder=tmp_path)
    full = train(small_recipe(), corpus, mixture, seed=0, threads=1)
    assert losses(half) != losses(full)
    for one, other in zip(losses(half), losses(full), strict=True):
        assert one == pytest.approx(other, abs=0.1)
    model = Decoder(recipe.architecture).bfloat16()
    load_weights(half.weights, model)
    rounded = torch.cat([weight.flatten().float() for weight in model.parameters()])
    model = model.float()
    load_weights(half.weights, model)
    kept = torch.cat([weight.flatten() for weight in model.parameters()])
    assert (rounded != kept).float().mean() > 0.9


def test_batches_read_ahead_are_the_same_whatever_is_asked_for(
    corpus: TokenisedCorpus, mixture: Mixture
) -> None:
    recipe = replace(small_recipe(), batch_stages=((5, 3),))
    schedule, world = MixtureSchedule.of(mixture), World.alone(torch.device("cpu"))
    sampler = sampler_of(recipe, corpus, schedule, seed=0, max_epochs=None)
    ahead, plain = (Batches(sampler, recipe, world, ahead=ahead) for ahead in (True, False))
    for step in (1, 2, 3, 4, 5, 6, 2, 3, 40, 1):
        for one, other in zip(ahead.of(step), plain.of(step), strict=True):
            assert torch.equal(one, other)
    ahead.close()
    plain.close()


def test_reading_ahead_of_the_last_update_does_no_harm(
    corpus: TokenisedCorpus, mixture: Mixture
) -> None:
    """The sampler refuses what comes after it."""
    schedule, world = MixtureSchedule.of(mixture), World.alone(torch.device("cpu"))
    sampler = sampler_of(small_recipe(200), corpus, schedule, seed=0, max_epochs=1.0)
    last = sampler.last_step(200)
    batches = Batches(sampler, small_recipe(200), world, ahead=True)
    assert len(batches.of(last)) == 1
    batches.close()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_token_beyond_the_vocabulary_is_a_damaged_shard(
    tmp_path: Path, mixture: Mixture, split: str
) -> None:
    damaged = write_small_corpus(tmp_path)
    shard = damaged.shards("noise", split)[0]
    tokens = np.load(tmp_path / shard.entry.file)
    tokens[-2000:] = 60_000
    np.save(tmp_path / shard.entry.file, tokens)
    with pytest.raises(TruncatedFile, match=rf"{split}.*token 60000, but the vocabulary ends"):
        train(small_recipe(), damaged, mixture, seed=0, threads=1)


def test_weights_of_a_finished_run_that_were_taken_away_are_written_again(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    first = train(small_recipe(4), corpus, mixture, seed=0, threads=1, folder=tmp_path)
    assert first.weights is not None
    before = first.weights.read_bytes()
    first.weights.unlink()
    again = train(small_recipe(4), corpus, mixture, seed=0, threads=1, folder=tmp_path)
    assert again.weights is not None
    assert load_file(again.weights).keys() == load(before).keys()
    assert all(torch.equal(load(before)[name], v) for name, v in load_file(again.weights).items())


def test_a_run_that_went_beyond_its_new_epochs_is_refused(
    corpus: TokenisedCorpus, mixture: Mixture, tmp_path: Path
) -> None:
    train(small_recipe(60), corpus, mixture, seed=0, threads=1, folder=tmp_path)
    with pytest.raises(InvalidRecipe, match=r"made 60 updates already, but with max_epochs 0.5"):
        train(small_recipe(60), corpus, mixture, seed=0, threads=1, folder=tmp_path, max_epochs=0.5)
