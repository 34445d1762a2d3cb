"""Mixture schedules: shares by tokens, against the formula and against sums over tokens."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.errors import InvalidMixture
from mixlab.mixture import Mixture
from mixlab.schedules import MixtureSchedule, Stage
from tests.corpora.schedule_makers import schedules

WEB = Mixture({"web": 1.0})
BLEND = Mixture({"web": 0.75, "code": 0.15, "proofs": 0.10})


def tinyllama_math_and_code() -> MixtureSchedule:
    """TinyLlama v1.1 Math&Code: 1.5T of SlimPajama, then new domains over 6B tokens."""
    return MixtureSchedule((Stage(WEB, 1_500 * 10**9), Stage(BLEND, None, 6 * 10**9)))


def shares_by_formula(schedule: MixtureSchedule, seen: int) -> dict[str, float]:
    """The formula of the module's docstring, read token by token from the first stage on."""
    before, begin = schedule.stages[0].mixture, 0
    for stage in schedule.stages[:-1]:
        assert stage.tokens is not None
        if seen < begin + stage.tokens:
            break
        before, begin = stage.mixture, begin + stage.tokens
    else:
        stage = schedule.stages[-1]
    ramp = stage.ramp_tokens
    done = min(1.0, (seen - begin) / ramp) if ramp else 1.0
    old, own = dict(before), dict(stage.mixture)
    return {
        name: old.get(name, 0) + (own.get(name, 0) - old.get(name, 0)) * done
        for name in schedule.domains
    }


@given(schedule=schedules(), seen=st.integers(0, 5000))
@settings(deadline=None, max_examples=40)
def test_shares_are_those_of_the_formula(schedule: MixtureSchedule, seen: int) -> None:
    assert schedule.shares(seen) == pytest.approx(shares_by_formula(schedule, seen), abs=1e-12)


@given(schedule=schedules(), tokens=st.integers(0, 3000))
@settings(deadline=None, max_examples=15)
def test_what_is_planned_is_the_integral_of_the_shares(
    schedule: MixtureSchedule, tokens: int
) -> None:
    # Shares are linear inside a token, so that its middle has its mean.
    names = schedule.domains
    halves = np.array(
        [
            [(at[name] + after[name]) / 2 for name in names]
            for at, after in (_ends_of_token(schedule, token) for token in range(tokens))
        ]
    ).reshape(tokens, len(names))
    planned = schedule.planned(tokens)
    assert list(planned.values()) == pytest.approx(halves.sum(axis=0).tolist(), abs=1e-8)
    assert sum(planned.values()) == pytest.approx(tokens)


def _ends_of_token(
    schedule: MixtureSchedule, token: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Shares where a token begins, and where it ends before any jump to a next stage."""
    here = next(s for s in schedule.spans() if s.end_tokens is None or token < s.end_tokens)
    at, end = (here.shares(where, schedule.domains).tolist() for where in (token, token + 1))
    return dict(zip(schedule.domains, at, strict=True)), dict(
        zip(schedule.domains, end, strict=True)
    )


@given(schedule=schedules())
@settings(deadline=None, max_examples=30)
def test_spans_follow_each_other_without_gaps(schedule: MixtureSchedule) -> None:
    spans = schedule.spans()
    assert spans[0].begin_tokens == 0
    assert spans[-1].end_tokens is None
    assert all(one.end_tokens == following.begin_tokens for one, following in pairwise(spans))
    assert all(span.end_tokens is None or span.end_tokens > span.begin_tokens for span in spans)


def test_a_constant_mixture_is_a_schedule_of_one_stage() -> None:
    schedule = MixtureSchedule.of(BLEND)
    assert schedule == MixtureSchedule((Stage(BLEND),))
    assert MixtureSchedule.of(schedule) is schedule
    assert schedule.shares(0) == schedule.shares(10**15) == pytest.approx(dict(BLEND))
    assert schedule.mean(1) == Mixture(schedule.shares(0))


def test_the_ramp_of_tinyllama() -> None:
    schedule = tinyllama_math_and_code()
    stage = 1_500 * 10**9
    assert schedule.shares(stage - 1) == {"code": 0.0, "proofs": 0.0, "web": 1.0}
    assert schedule.shares(stage + 2 * 10**9)["code"] == pytest.approx(0.05)
    assert schedule.shares(stage + 6 * 10**9) == pytest.approx(dict(BLEND))
    # A ramp's triangle is half of the full share.
    assert schedule.planned(stage + 6 * 10**9)["proofs"] == pytest.approx(0.10 * 3 * 10**9)


@given(schedule=schedules())
@settings(deadline=None, max_examples=30)
def test_a_schedule_survives_json(schedule: MixtureSchedule) -> None:
    assert MixtureSchedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_what_people_write_is_read_as_well() -> None:
    shares = {"code": 0.5, "law": 0.5}
    assert MixtureSchedule.from_dict(shares) == MixtureSchedule.of(Mixture(shares))
    read = MixtureSchedule.from_dict({"stages": [{"proportions": {"law": 1.0}, "tokens": 6e9},
                                                 {"proportions": shares}]})  # fmt: skip
    assert read.stages[0].tokens == 6_000_000_000


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"stages": []}, "at least one stage"),
        ({"stages": [{"proportions": {"a": 1.0}, "tokens": 5}]}, "the last none"),
        ({"stages": [{"proportions": {"a": 1.0}}, {"proportions": {"a": 1.0}}]}, "its tokens"),
        ({"stages": [{"proportions": {"a": 1.0}, "tokens": 0}, {"proportions": {"a": 1.0}}]},
         "at least 1"),
        ({"stages": [{"proportions": {"a": 1.0}, "tokens": 1.5}, {"proportions": {"a": 1.0}}]},
         "whole numbers"),
        ({"stages": [{"proportions": {"a": 1.0}, "tokens": 9},
                     {"proportions": {"a": 1.0}, "tokens": 4, "ramp_tokens": 5},
                     {"proportions": {"a": 1.0}}]}, "ramp of 5 tokens; give 0 to 4"),
        ({"stages": [{"proportions": {"a": 1.0}, "ramp_tokens": 5}]}, "no stage before it"),
        ({"stages": [{"proportions": {"a": 1.0}, "tokens": True},
                     {"proportions": {"a": 1.0}}]}, "counts True tokens"),
        ({"stages": [{"proportions": {"a": 1.0}, "tokens": 1},
                     {"proportions": {"a": 1.0}, "ramp_tokens": -1}]}, "give 0 to 9"),
        ({"stages": [{"proportions": {"a": 1.0}, "tokens": 2**63 - 1},
                     {"proportions": {"a": 1.0}, "ramp_tokens": 1}]}, "longer than anything"),
        ({"stages": [{"proportions": {"a": 1.0}, "ramp": 5}]}, "has no ramp"),
        ({"stages": [{"proportions": {"a": 0.4}}]}, "sum to 1"),
        ({"stages": [{"tokens": 3}]}, "proportions"),
        ({"stages": 3}, "not iterable"),
        ({"a": "much"}, "shares by domain"),
        ([0.5, 0.5], "shares by domain"),
    ],
)  # fmt: skip
def test_a_schedule_that_cannot_be_followed_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(InvalidMixture, match=reason):
        MixtureSchedule.from_dict(value)
