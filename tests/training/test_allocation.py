"""Memory that a run frees: kept while it runs, given back after it."""

import resource
import sys
from collections.abc import Iterator

import pytest
import torch

from mixlab.training.allocation import hold_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is tuned")

BYTES = 48 << 20  # larger than glibc's own rule would keep
SMALL_PAGES = BYTES // 4096
# The ends of an array that don't fill a page of 2 MB have small ones: up to 512 at each end.
FEW_PAGES = SMALL_PAGES / 10


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that begin have pages of their own, which aren't the array's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def faults_of_an_array() -> int:
    """Pages that the system hands out while an array is filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BYTES // 4).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_what_is_freed_is_kept_until_the_end() -> None:
    with hold_memory():
        faults_of_an_array()
        assert faults_of_an_array() < FEW_PAGES
        held = resident_bytes()
    assert resident_bytes() < held - BYTES / 2


def test_it_holds_one_run_after_another() -> None:
    for _ in range(2):
        with hold_memory():
            faults_of_an_array()
            assert faults_of_an_array() < FEW_PAGES
