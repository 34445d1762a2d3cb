"""The benchmark of training at its smallest: it runs, counts agree, the table can be written."""

from dataclasses import replace

import pytest
import torch

from benchmarks.training import counting, solo, writing
from benchmarks.training.work import Work

TINY = Work(
    "tiny", layers=1, width=16, heads=2, kv_heads=1, ffn_width=24, vocabulary=64, context=16,
    sequences=2, at_once=2, threads=1,
)  # fmt: skip


@pytest.mark.slow
def test_a_round_of_our_own_loop_becomes_a_table() -> None:
    among = solo.contenders({}, ("eager",))
    rows = solo.measure(TINY, among, rounds=2, seconds=0.01)
    assert [row.contender.name for row in rows] == ["mixlab"]
    assert rows[0].parameters == TINY.vocabulary * 16 * 2 + 1 * (16 * 48 + 48 * 24 + 32) + 16
    assert rows[0].ratios(rows[0]) == [1.0, 1.0]
    text = writing.document([writing.solo(TINY, rows)], command="make bench-train", seconds=1)
    assert "| mixlab | eager |" in text


def test_the_best_peer_is_the_one_in_the_verdict() -> None:
    def row(name: str, mode: str, *seconds: float) -> solo.Row:
        return solo.Row(solo.Contender(name, mode, ()), 1, 1.0, seconds, 3)

    ours = [row("mixlab", "eager", 4, 4, 9), row("mixlab", "compiled", 2, 4, 3)]
    peers = [row("litgpt", "eager", 3, 9, 6), row("trainer", "compiled", 8, 8, 8)]
    assert ours[1].ratios(peers[0]) == [1.5, 2.25, 2.0]
    text = writing.solo(TINY, [*ours, *peers])
    assert text.endswith(
        "mixlab, compiled, does **2.00 times** the tokens per second of the best peer, "
        "litgpt, pretraining step, eager."
    )


@pytest.mark.slow
def test_counts_of_the_benchmark_agree() -> None:
    rows = list(counting.measure(torch.device("cpu"), 20_000))
    assert [row.bits for row in rows] == [16, 32]
    assert all(row.gain > 0 for row in rows)


def test_a_work_survives_its_line() -> None:
    work = replace(solo.LARGE, sequences=3)
    assert Work.from_json(work.to_json()) == work
