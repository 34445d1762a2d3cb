"""How the `mixlab` command fails: one line that says what is wrong, status 1, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixlab.tables import write_table
from tests.synthetic import mixtures, observe


def failure(*arguments: str, **environment: str) -> str:
    """What a command that must fail says on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env=os.environ | {"COLUMNS": "80"} | environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", ["[/x].csv", "[red]x.csv"])
def test_a_name_that_looks_like_markup_is_shown_as_it_is(name: str) -> None:
    assert name in failure("fit", name)


def test_what_the_system_refuses_is_told(tmp_path: Path) -> None:
    write_table(observe(mixtures(2, 5)), tmp_path / "runs.csv")
    given = ["--law", "bimix", "--output", str(tmp_path / "no" / "fit.json")]
    said = failure("fit", str(tmp_path / "runs.csv"), *given)
    assert "No such file or directory" in said


@pytest.mark.service
class TestUp:
    def test_a_home_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert "Not a directory" in failure("up", "--home", str(tmp_path / "file"))

    def test_a_data_root_that_is_not_there(self, tmp_path: Path) -> None:
        said = failure("up", "--home", str(tmp_path / "home"), "--data-root", str(tmp_path / "no"))
        assert str(tmp_path / "no") in said

    @pytest.mark.parametrize(
        ("variable", "value", "told"),
        [
            ("MIXLAB_DATA_ROOTS", "/data", '["/data"]'),
            ("MIXLAB_LEASE_SECONDS", "soon", "MIXLAB_LEASE_SECONDS"),
            ("MIXLAB_MAX_BODY_BYTES", "-1", "MIXLAB_MAX_BODY_BYTES"),
        ],
    )
    def test_a_setting_that_cannot_be(
        self, tmp_path: Path, variable: str, value: str, told: str
    ) -> None:
        said = failure("up", "--home", str(tmp_path / "home"), **{variable: value})
        assert told in said
        assert not (tmp_path / "home").exists()

    def test_a_ledger_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "ledger.sqlite").write_text("these are words, not a database" * 100)
        said = failure("up", "--home", str(tmp_path), "--port", "18777")
        assert "ledger.sqlite" in said
