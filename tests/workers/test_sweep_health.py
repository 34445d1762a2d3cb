"""The sweep's health is when it last got through a round."""

import os
import time
from pathlib import Path

import pytest

from workers.health import main, swept
from workers.settings import WorkerSettings


def test_a_sweep_that_left_no_mark_lately_is_not_well(tmp_path: Path) -> None:
    settings = WorkerSettings(home=tmp_path)
    assert swept(settings, 60)[0] is False
    settings.sweep_file.touch()
    assert swept(settings, 60)[0] is True
    long_ago = time.time() - 61
    os.utime(settings.sweep_file, (long_ago, long_ago))
    well, why = swept(settings, 60)
    assert not well
    assert "61 s ago" in why


def test_the_exit_status_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLAB_HOME", str(tmp_path))
    assert main(["--sweep"]) == 1
    WorkerSettings().sweep_file.touch()
    assert main(["--sweep"]) == 0
