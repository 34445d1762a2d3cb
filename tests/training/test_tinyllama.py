"""The 1.1B recipe on a small machine: one real update, in memory that is there."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixlab.training.memory import free_bytes

ROOT = Path(__file__).parents[2]
GB = 1e9


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    free_bytes() < 17 * GB, reason=f"needs 17 GB of free memory; {free_bytes() / GB:.1f} are"
)
def test_one_update_of_tinyllama_1b_fits_into_16_gigabytes() -> None:
    """12 bytes a parameter: float32 weights and gradients, bfloat16 moments."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.one_step"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parameters"] == 1_100_048_384
    # A fresh head's logits have variance 0.02^2 * 2048; 32 targets are few.
    assert found["loss_before"] == pytest.approx(math.log(32_000) + 0.02**2 * 2048 / 2, abs=0.7)
    # One update at the peak rate has told the ten numbers from the other tokens.
    assert 0 < found["loss_after"] < found["loss_before"] - 2
    assert found["needed_bytes"] < found["peak_bytes"] < 16 * GB
