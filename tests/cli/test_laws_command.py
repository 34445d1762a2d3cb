"""`mixlab laws`, `laws score` and `import`, as a user types them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from mixlab.errors import InvalidMixture, InvalidTable, UnknownLaw
from mixlab.laws import LAWS
from mixlab.runs import Observations
from mixlab.tables import read_table, write_table
from tests.synthetic import mixtures, observe

RUN = CliRunner()


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    whole = observe(mixtures(3, 12), noise=0.002)
    first = np.arange(len(whole)) < 48
    write_table(whole.take(first), tmp_path / "train.csv")
    write_table(whole.take(~first), tmp_path / "test.csv")
    return tmp_path / "train.csv", tmp_path / "test.csv"


def scored(train: Path, test: Path, *given: str) -> dict[str, Any]:
    command = ["laws", "score", str(train), str(test), "--law", "bimix", *given, "--json"]
    result = RUN.invoke(app, command)
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def changed(path: Path, name: str, **changes: Any) -> Path:
    """The table with other arrays, written beside it."""
    other = path.with_name(name)
    write_table(replace(read_table(path), **changes), other)
    return other


def test_every_law_is_listed_with_its_formula_and_source() -> None:
    listed = RUN.invoke(app, ["laws"])
    assert listed.exit_code == 0
    for name, law in LAWS.items():
        assert name in listed.output
        assert law.formula in listed.output
    found = json.loads(RUN.invoke(app, ["laws", "--json"]).stdout)
    assert [one["name"] for one in found] == list(LAWS)
    assert all(one["source"] and one["needs"] for one in found)


def test_a_law_is_scored_on_a_table_that_it_has_not_seen(tables: tuple[Path, Path]) -> None:
    found = scored(*tables)
    assert found["law"] == "bimix"
    assert set(found["targets"]) == {"d0", "d1", "d2"}
    for one in [*found["targets"].values(), found["mean"]]:
        assert one["mre_percent"] < 0.5
        assert one["spearman"] > 0.99
        assert one["r2"] > 0.99
        assert one["n"] == 24
        assert 0.9 <= one["coverage95"] <= 1
    assert found["seconds"] > 0
    shown = RUN.invoke(app, ["laws", "score", *map(str, tables), "--law", "bimix"])
    for words in ("MRE", "Spearman", "R²", "95 %", "mean"):
        assert words in shown.output


def test_domains_and_targets_are_matched_by_name(tables: tuple[Path, Path]) -> None:
    train, test = tables
    found, turned = read_table(test), [2, 0, 1]
    other = changed(
        test, "turned.csv",
        domains=tuple(found.domains[i] for i in turned),
        targets=tuple(found.targets[i] for i in reversed(turned)),
        proportions=found.proportions[:, turned],
        losses_nats=found.losses_nats[:, list(reversed(turned))],
    )  # fmt: skip
    one, two = scored(train, test), scored(train, other)
    assert two["targets"].keys() == one["targets"].keys()
    for name, score in one["targets"].items():
        assert two["targets"][name] == pytest.approx(score)


def without(found: Observations, domain: str) -> dict[str, Any]:
    """A table in which a domain has no share and no column."""
    kept = [name for name in found.domains if name != domain]
    shares = found.proportions[:, [found.domains.index(name) for name in kept]]
    shares = shares / shares.sum(axis=1, keepdims=True)
    return {"domains": tuple(kept), "proportions": shares}


def test_a_domain_that_the_test_lacks_has_no_share_and_is_told(tables: tuple[Path, Path]) -> None:
    train, test = tables
    other = changed(test, "less.csv", **without(read_table(test), "d2"))
    found = scored(train, other)
    assert any("'d2'" in note and "taken as 0" in note for note in found["notes"])
    assert found["targets"]["d2"]["n"] == 0  # BiMix says nothing of a share of 0
    assert found["targets"]["d2"]["mre_percent"] is None
    assert any("d2" in note and "undefined" in note for note in found["notes"])


def test_a_domain_that_the_fit_does_not_know_is_refused(tables: tuple[Path, Path]) -> None:
    train, test = tables
    other = changed(test, "other.csv", domains=("d0", "d1", "poems"))
    result = RUN.invoke(app, ["laws", "score", str(train), str(other), "--law", "bimix"])
    assert isinstance(result.exception, InvalidMixture)
    assert "'poems'" in str(result.exception)


def test_targets_in_common_are_needed(tables: tuple[Path, Path]) -> None:
    train, test = tables
    some = changed(test, "some.csv", targets=("d0", "d1", "essays"))
    found = scored(train, some)
    assert set(found["targets"]) == {"d0", "d1"}
    assert any("essays" in note for note in found["notes"])
    none = changed(test, "none.csv", targets=("x", "y", "z"))
    result = RUN.invoke(app, ["laws", "score", str(train), str(none), "--law", "bimix"])
    assert isinstance(result.exception, InvalidTable)


def test_an_unknown_law_names_those_there_are(tables: tuple[Path, Path]) -> None:
    result = RUN.invoke(app, ["laws", "score", *map(str, tables), "--law", "newton"])
    assert isinstance(result.exception, UnknownLaw)
    assert "bimix" in str(result.exception)


def test_regmix_tables_become_one(tmp_path: Path) -> None:
    (tmp_path / "mix.csv").write_text(
        "index,train_the_pile_code,train_the_pile_web\n1,0.4,0.6\n2,0.7,0.3\n"
    )
    (tmp_path / "loss.csv").write_text(
        "index,metric/the_pile_code_val_loss,metric/the_pile_web_val_loss\n2,2.0,3.1\n1,2.5,3.0\n"
    )
    files = [str(tmp_path / name) for name in ("mix.csv", "loss.csv")]
    made = tmp_path / "table.csv"
    given = ["import", "regmix", *files, "-o", str(made), "--tokens", "1e9", "--params", "1e6"]
    result = RUN.invoke(app, [*given, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads(result.stdout)["domains"] == ["code", "web"]
    found = read_table(made)
    assert found.losses_nats.tolist() == [[2.5, 3.0], [2.0, 3.1]]  # joined by the run's name
    assert found.params.tolist() == [1e6, 1e6]
    swapped = RUN.invoke(app, ["import", "regmix", *reversed(files), "-o", str(made)])
    assert isinstance(swapped.exception, InvalidTable)
