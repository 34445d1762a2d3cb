"""Memory that a run frees: kept while it runs, given back after it."""

import resource
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from mixlab.training.allocation import hold_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is tuned")

BYTES = 48 << 20  # larger than glibc's own rule would keep
SMALL_PAGES = BYTES // 4096


def faults_of_an_array() -> int:
    """Pages that the system hands out while an array is filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BYTES // 4).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def settled() -> None:
    """A run's first updates: their gaps join until one holds the next array."""
    for _ in range(10):
        faults_of_an_array()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def bytes_held_and_left() -> tuple[int, int, int]:
    """Faults of an array within a run, and what is resident at its end and after it."""
    with hold_memory():
        settled()
        faults, held = faults_of_an_array(), resident_bytes()
    return faults, held, resident_bytes()


def faults_of_two_runs() -> list[int]:
    faults = []
    for _ in range(2):
        with hold_memory():
            settled()
            faults.append(faults_of_an_array())
    return faults


@pytest.fixture(scope="module")
def process() -> Iterator[Executor]:
    """One of its own, whose heap has no holes, and no threads, of other tests."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


def test_what_is_freed_is_kept_until_the_end(process: Executor) -> None:
    faults, held, left = process.submit(bytes_held_and_left).result()
    assert faults < SMALL_PAGES / 100
    assert left < held - BYTES / 2


def test_it_holds_one_run_after_another(process: Executor) -> None:
    assert max(process.submit(faults_of_two_runs).result()) < SMALL_PAGES / 100
