"""`mixlab fit` and `mixlab solve` on a plain table, as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from mixlab.errors import InfeasibleConstraints, InvalidTable, MissingFile
from mixlab.tables import write_table
from tests.synthetic import TRUTH, mixtures, observe

RUN = CliRunner()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_table(observe(mixtures(3, 8), noise=0.002), tmp_path / "runs.csv")
    return tmp_path / "runs.csv"


def test_fit_prints_parameters_errors_and_the_mixture(table: Path) -> None:
    result = RUN.invoke(app, ["fit", str(table), "--at-step", "2000"])
    assert result.exit_code == 0, result.output
    for words in ("bimix", "alpha", "±", "held-out error", "converged", "Mixture for 2,000 steps"):
        assert words in result.output
    assert "observed were 30 to 1000" in result.output


def test_fit_as_json_holds_everything(table: Path) -> None:
    result = RUN.invoke(app, ["fit", str(table), "--budget-tokens", "4096000", "--json"])
    answer = json.loads(result.stdout)
    assert answer["solution"]["step"] == 1000
    assert answer["fit"]["targets"]["d0"]["parameters"]["alpha"] == pytest.approx(TRUTH[1], rel=0.1)
    assert set(answer["heldout_mre_percent"]) == {"d0", "d1", "d2"}


def test_a_saved_fit_is_solved_again_under_other_constraints(table: Path, tmp_path: Path) -> None:
    saved = tmp_path / "fit.json"
    assert RUN.invoke(app, ["fit", str(table), "--output", str(saved)]).exit_code == 0
    given = ["--lower", "d0=0.5", "--upper", "d1=0.2", "--weight", "d0=1", "--weight", "d1=2",
             "--weight", "d2=1"]  # fmt: skip
    answer = json.loads(RUN.invoke(app, ["solve", str(saved), *given, "--json"]).stdout)
    assert answer["mixture"]["d0"] == pytest.approx(0.5)
    assert answer["mixture"]["d1"] == pytest.approx(0.2)
    capped = ["--budget-tokens", "1e7", "--tokens-available", "d1=1e6", "--max-epochs", "2"]
    shown = RUN.invoke(app, ["solve", str(saved), *capped])
    assert "0.2000" in shown.output
    assert "epochs" in shown.output


def test_bad_input_is_named(table: Path, tmp_path: Path) -> None:
    assert isinstance(RUN.invoke(app, ["fit", str(tmp_path / "x.csv")]).exception, MissingFile)
    clash = RUN.invoke(app, ["fit", str(table), "--lower", "d0=0.7", "--lower", "d1=0.7"])
    assert isinstance(clash.exception, InfeasibleConstraints)
    half = RUN.invoke(app, ["fit", str(table), "--lower", "d0"])
    assert half.exit_code == 2
    assert "NAME=NUMBER" in half.output
    (tmp_path / "no.json").write_text("{")
    assert isinstance(RUN.invoke(app, ["solve", str(tmp_path / "no.json")]).exception, InvalidTable)
