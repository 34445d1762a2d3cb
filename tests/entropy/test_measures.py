from collections import Counter
from itertools import pairwise
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.entropy.counts import PairCounts, count_blocks
from mixlab.entropy.measures import EntropyMeasures, measures
from mixlab.errors import DomainTooSmall

END = 0


def measured(documents: list[list[int]], *, blocks: int = 1) -> EntropyMeasures:
    pieces = [[*document, END] for document in documents]
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    tokens = np.array([t for piece in pieces for t in piece], dtype=np.uint16)
    return measures(count_blocks(tokens, starts, END, blocks=blocks))


def entropy_of(counter: Counter) -> float:
    total = sum(counter.values())
    return -sum(n / total * log(n / total) for n in counter.values())


def markov_tokens(stay: float, leave: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """A two-state chain (ids 1 and 2): P(1|1) = stay, P(1|2) = leave."""
    draws = rng.random(length)
    states = [1]
    for draw in draws[1:].tolist():
        states.append(1 if draw < (stay if states[-1] == 1 else leave) else 2)
    return np.array(states, dtype=np.uint16)


def binary_entropy(p: float) -> float:
    return -p * log(p) - (1 - p) * log(1 - p)


@settings(deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(1, 5), max_size=9), min_size=1, max_size=8).filter(
        lambda documents: any(len(document) > 1 for document in documents)
    )
)
def test_measures_are_the_papers_sums(documents: list[list[int]]) -> None:
    pairs = Counter(pair for document in documents for pair in pairwise(document))
    firsts: Counter[int] = Counter()
    for (first, _), n in pairs.items():
        firsts[first] += n
    total = sum(pairs.values())
    conditional = -sum(n / total * log(n / firsts[pair[0]]) for pair, n in pairs.items())
    found = measured(documents)
    assert found.shannon == pytest.approx(entropy_of(Counter(t for d in documents for t in d)))
    assert found.joint == pytest.approx(entropy_of(pairs), abs=1e-12)
    assert found.conditional == pytest.approx(conditional, abs=1e-12)
    assert found.joint == pytest.approx(found.plug_in.first + found.conditional, abs=1e-12)
    assert found.miller_madow.joint == pytest.approx(
        found.joint + (len(pairs) - 1) / (2 * total), abs=1e-12
    )
    assert found.miller_madow.conditional == pytest.approx(
        found.conditional + (len(pairs) - len(firsts)) / (2 * total), abs=1e-12
    )


def test_uniform_independent_tokens_have_log_v_nats_each() -> None:
    tokens = np.random.default_rng(1).integers(0, 64, 1_000_000).astype(np.uint16)
    found = measures([PairCounts.from_shard(tokens, [0])])
    assert found.shannon == pytest.approx(log(64), abs=1e-3)
    assert found.joint == pytest.approx(2 * log(64), abs=5e-3)
    assert found.miller_madow.conditional == pytest.approx(log(64), abs=2e-4)


def test_a_deterministic_chain_has_no_conditional_entropy() -> None:
    found = measured([[1, 2, 3, 4] * 1000])
    assert found.conditional == pytest.approx(0.0, abs=1e-12)
    assert found.shannon == pytest.approx(log(4))


def test_a_markov_chain_has_its_analytic_rate() -> None:
    stay, leave = 0.9, 0.3
    share = leave / (1 - stay + leave)  # of state 1 in the long run
    tokens = markov_tokens(stay, leave, 400_000, np.random.default_rng(2))
    starts = np.arange(0, len(tokens), 1000)
    found = measures(count_blocks(tokens, starts, blocks=40))
    rate = share * binary_entropy(stay) + (1 - share) * binary_entropy(leave)
    assert found.conditional == pytest.approx(rate, abs=4 * found.standard_error.conditional)
    assert found.shannon == pytest.approx(
        binary_entropy(share), abs=4 * found.standard_error.shannon
    )
    assert found.standard_error.conditional < 3e-3


def test_miller_madow_takes_most_of_the_bias_away() -> None:
    rng = np.random.default_rng(3)
    estimates = [
        measures([PairCounts.from_shard(rng.integers(0, 50, 20_000).astype(np.uint16), [0])])
        for _ in range(20)
    ]
    plug_in = np.mean([e.conditional for e in estimates]) - log(50)
    corrected = np.mean([e.miller_madow.conditional for e in estimates]) - log(50)
    assert plug_in < -0.05
    assert abs(corrected) < 0.1 * abs(plug_in)


@pytest.mark.parametrize("equal", [True, False])
def test_jackknife_errors_match_the_spread_of_repeated_draws(equal: bool) -> None:
    """Blocks differ in their source, so that errors come from between blocks too."""
    rng = np.random.default_rng(4)

    def draw() -> EntropyMeasures:
        sizes = [2000] * 24 if equal else rng.integers(400, 4000, 24).tolist()
        shards = [
            np.minimum(rng.geometric(rng.uniform(0.2, 0.4), size), 30).astype(np.uint16)
            for size in sizes
        ]
        return measures([PairCounts.from_shard(shard, [0]) for shard in shards])

    draws = [draw() for _ in range(120)]
    for name in ("shannon", "joint", "conditional"):
        spread = np.std([getattr(d, name) for d in draws], ddof=1)
        expected = np.sqrt(np.mean([getattr(d.standard_error, name) ** 2 for d in draws]))
        # 120 draws know their spread to 6.5%, one standard deviation.
        assert expected == pytest.approx(spread, rel=0.25), name


def test_equal_blocks_give_the_textbook_jackknife() -> None:
    rng = np.random.default_rng(5)
    shards = [rng.integers(1, 9, 200).astype(np.uint16) for _ in range(7)]
    blocks = [PairCounts.from_shard(shard, [0]) for shard in shards]
    left_out = np.array(
        [measures([b for b in blocks if b is not block]).conditional for block in blocks]
    )
    expected = np.sqrt(6 / 7 * ((left_out - left_out.mean()) ** 2).sum())
    assert measures(blocks).standard_error.conditional == pytest.approx(expected, rel=1e-9)


def test_one_block_has_no_standard_error_and_says_so_in_json() -> None:
    value = measured([[1, 2, 3]]).to_dict()
    assert value["blocks"] == 1
    assert value["standard_error"]["conditional"] is None
    assert value["conditional"] == pytest.approx(0.0)


def test_blocks_may_be_counted_lazily() -> None:
    shards = [np.array([1, 2, 1, 3], np.uint16), np.array([2, 2, 1], np.uint16)]

    class Lazy:
        def __iter__(self):  # noqa: ANN204
            return (PairCounts.from_shard(shard, [0]) for shard in shards)

    assert measures(Lazy()) == measures(list(Lazy()))


@pytest.mark.parametrize("documents", [[[]], [[1]], [[1], [2], []]])
def test_a_domain_without_a_pair_is_too_small(documents: list[list[int]]) -> None:
    with pytest.raises(DomainTooSmall, match="two tokens"):
        measured(documents)
