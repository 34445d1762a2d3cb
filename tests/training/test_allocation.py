"""Memory that a run frees: kept while it runs, given back after it."""

import resource
import sys

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


def test_what_is_freed_is_kept_until_the_end() -> None:
    with hold_memory():
        settled()
        assert faults_of_an_array() < SMALL_PAGES / 100
        held = resident_bytes()
    assert resident_bytes() < held - BYTES / 2


def test_it_holds_one_run_after_another() -> None:
    for _ in range(2):
        with hold_memory():
            settled()
            assert faults_of_an_array() < SMALL_PAGES / 100
