"""A short form of `make fuzz`, always with the same seed."""

from pathlib import Path

import pytest

from tests.fuzz.running import fuzz


@pytest.mark.slow
@pytest.mark.service
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    done = fuzz(tmp_path, 20, seed=1)
    assert done.status == 0, done.report
