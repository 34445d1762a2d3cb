"""Groups of runs: whichever way they are trained, each is what it is alone, and goes on so."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.errors import Diverged, InvalidMixture
from mixlab.mixture import Mixture
from mixlab.training import TrainingResult
from mixlab.training.groups import GroupProgress, train_group
from mixlab.training.measuring import Measured
from mixlab.training.planning import Cost, Plan, Way
from mixlab.training.stacked import StackedRun
from tests.training.conftest import small_recipe
from tests.training.test_stacked import DIVERGING, RUNS, assert_near, in_folders, losses, train_solo

RECIPE = small_recipe(20)


def plan(way: Way, *, stack: int = 1, processes: int = 1) -> Plan:
    measured = Measured(stack, processes, 1, 1.0, 1.0, None, "made up")
    cost = Cost(1.0, "", 1, 1.0, 1, 1.0, None)
    return Plan("cpu", way, 3, stack, processes, (measured,), (), cost)


WAYS = {
    "one by one": plan("one by one"),
    "stacked by two": plan("stacked", stack=2),
    "stacks in processes": plan("processes", stack=2, processes=2),
}


@pytest.mark.parametrize(
    "way",
    [pytest.param(name, marks=pytest.mark.slow) if "processes" in name else name for name in WAYS],
)  # fmt: skip
def test_each_way_gives_the_solo_runs(way: str, corpus: TokenisedCorpus) -> None:
    told: list[GroupProgress] = []
    runs = (*RUNS[:2], replace(RUNS[2], learning_rate=DIVERGING))
    found = train_group(RECIPE, corpus, runs, plan=WAYS[way], threads=1, progress=told.append)
    for run, outcome in zip(runs[:2], found[:2], strict=True):
        assert_near(outcome, train_solo(RECIPE, corpus, run))
    assert isinstance(found[2], Diverged)
    fractions = [now.fraction for now in told]
    assert fractions == sorted(fractions)
    assert 0 < fractions[-1] <= 1
    for place in (0, 1):
        seen = tuple(now.observation for now in told if now.run == place)
        assert isinstance(found[place], TrainingResult)
        assert seen == found[place].observations


def test_a_stopped_group_goes_on_where_it_was_also_by_another_plan(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    """Two runs are half done and one hasn't begun; then stacks are of another size."""
    runs = in_folders(RUNS, tmp_path)
    told: list[GroupProgress] = []
    stopped = train_group(
        RECIPE, corpus, runs, plan=plan("stacked", stack=2), threads=1, progress=told.append,
        stop=lambda: bool(told),
    )  # fmt: skip
    assert [(one.ended, one.step) for one in stopped] == [
        ("stopped", 10), ("stopped", 10), ("stopped", 0),
    ]  # fmt: skip
    told.clear()
    found = train_group(
        RECIPE, corpus, runs, plan=plan("stacked", stack=3), threads=1, progress=told.append
    )
    for run, outcome in zip(RUNS, found, strict=True):
        assert_near(outcome, train_solo(RECIPE, corpus, run))
    assert min(now.fraction for now in told if now.run in (0, 1)) > 1 / 3


def test_what_is_done_is_only_read_and_what_diverged_is_told_again(
    corpus: TokenisedCorpus, tmp_path: Path
) -> None:
    runs = in_folders((*RUNS[:2], replace(RUNS[2], learning_rate=DIVERGING)), tmp_path)
    first = train_group(RECIPE, corpus, runs, plan=WAYS["one by one"], threads=1)
    told: list[GroupProgress] = []
    # Without a plan: there is nothing left to measure for.
    again = train_group(RECIPE, corpus, runs, threads=1, progress=told.append)
    assert [losses(one) for one in again[:2]] == [losses(one) for one in first[:2]]
    assert str(again[2]) == str(first[2])
    assert not told


@pytest.mark.slow
def test_processes_stop_with_checkpoints_and_go_on(corpus: TokenisedCorpus, tmp_path: Path) -> None:
    recipe, runs = small_recipe(80), in_folders(RUNS, tmp_path)
    told: list[GroupProgress] = []
    way = plan("processes", processes=2)
    stopped = train_group(
        recipe, corpus, runs, plan=way, progress=told.append, stop=lambda: bool(told)
    )
    # A fast machine may have finished the first two before it was asked.
    assert isinstance(stopped[2], TrainingResult)
    assert stopped[2].ended == "stopped"
    found = train_group(recipe, corpus, runs, plan=way)
    assert losses(found[0]) == losses(train_solo(recipe, corpus, RUNS[0]))
    assert all(one.ended == "done" for one in found if isinstance(one, TrainingResult))


@pytest.mark.slow
def test_an_error_in_a_process_is_the_error_of_the_group(corpus: TokenisedCorpus) -> None:
    runs = [StackedRun(Mixture({"law": 1.0}), seed=0)]
    with pytest.raises(InvalidMixture, match="law"):
        train_group(RECIPE, corpus, runs, plan=plan("processes", processes=2))


def test_mixtures_travel_between_processes() -> None:
    given = Mixture({"code": 0.25, "web": 0.75})
    assert pickle.loads(pickle.dumps(given)) == given
