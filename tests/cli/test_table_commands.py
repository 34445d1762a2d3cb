"""`mixlab fit`, `solve` and `predict` on a plain table, as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.questions import linear
from mixlab.errors import (
    InfeasibleConstraints,
    InvalidBudget,
    InvalidMixture,
    InvalidTable,
    MissingFile,
)
from mixlab.tables import write_table
from tests.synthetic import TRUTH, mixtures, observe

RUN = CliRunner()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "runs.csv"
    write_table(observe(mixtures(3, 8), noise=0.002), path)
    return path


@pytest.fixture(scope="module")
def saved(table: Path) -> Path:
    path = table.with_name("fit.json")
    result = RUN.invoke(
        app, ["fit", str(table), "--law", "bimix", "--replicates", "20", "--output", str(path)]
    )
    assert result.exit_code == 0, result.output
    return path


def test_fit_prints_parameters_errors_and_the_mixture(table: Path) -> None:
    given = ["--law", "bimix", "--at-step", "2000", "--next-runs", "1"]
    result = RUN.invoke(app, ["fit", str(table), *given])
    assert result.exit_code == 0, result.output
    for words in ("bimix", "alpha", "±", "held-out error", "converged", "95% interval",
                  "can't be told from it", "corrected", "next-01",
                  "Mixture for 2,000 steps"):  # fmt: skip
        assert words in result.output
    assert "outside those observed, 30 to 1000" in result.output


def test_fit_as_json_holds_everything(table: Path) -> None:
    given = ["--law", "bimix", "--budget-tokens", "4096000", "--replicates", "20", "--json"]
    answer = json.loads(RUN.invoke(app, ["fit", str(table), *given]).stdout)
    assert answer["solution"]["step"] == 1000
    assert answer["fit"]["targets"]["d0"]["parameters"]["alpha"] == pytest.approx(TRUTH[1], rel=0.1)
    assert len(answer["fit"]["targets"]["d0"]["replicates"]) == 20
    assert set(answer["heldout_mre_percent"]) == {"d0", "d1", "d2"}
    for target, nats in answer["solution"]["predicted_nats"].items():
        one = answer["predictions"][target]
        assert one["low95"] < one["nats"] < one["high95"]
        assert one["nats"] == pytest.approx(nats)


def test_a_saved_fit_is_solved_again_under_other_constraints(saved: Path) -> None:
    given = ["--lower", "d0=0.5", "--upper", "d1=0.2", "--weight", "d0=1", "--weight", "d1=2",
             "--weight", "d2=1"]  # fmt: skip
    answer = json.loads(RUN.invoke(app, ["solve", str(saved), *given, "--json"]).stdout)
    assert answer["mixture"]["d0"] == pytest.approx(0.5)
    assert answer["mixture"]["d1"] == pytest.approx(0.2)
    capped = ["--budget-tokens", "1e7", "--tokens-available", "d1=1e6", "--max-epochs", "2"]
    shown = RUN.invoke(app, ["solve", str(saved), *capped])
    assert "0.2000" in shown.output
    assert "epochs" in shown.output
    assert "worth: " in shown.output  # what one more epoch, or a billion tokens, would bring


def solved(saved: Path, *given: str) -> dict[str, float]:
    result = RUN.invoke(app, ["solve", str(saved), *given, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    answer: dict[str, float] = json.loads(result.stdout)["mixture"]
    return answer


def test_groups_sums_nearness_and_repeats_are_obeyed(saved: Path) -> None:
    group = solved(saved, "--group", "text=d0,d1", "--upper", "text=0.4")
    assert group["d0"] + group["d1"] == pytest.approx(0.4, abs=1e-6)
    summed = solved(saved, "--linear", "d0 - 2*d1 >= 0.1")
    assert summed["d0"] - 2 * summed["d1"] == pytest.approx(0.1, abs=1e-6)
    near = solved(saved, "--near", "d0=0.8,d1=0.1,d2=0.1", "--kl-nats", "0.01")
    assert abs(near["d0"] - 0.8) < 0.1
    repeats = ["--budget-tokens", "1e7", "--tokens-available", "d2=1e5", "--repetition", "15.39"]
    assert solved(saved, *repeats)["d2"] < solved(saved)["d2"]


def test_the_worst_target_the_excess_and_the_bootstrap_are_objectives(saved: Path) -> None:
    mean, worst = solved(saved), solved(saved, "--objective", "worst")
    excess = solved(saved, "--objective", "excess", "--reference", "d0=0.6,d1=0.3,d2=0.1")
    risky = solved(saved, "--risk", "0.9")
    for one in (worst, excess, risky):
        assert sum(one.values()) == pytest.approx(1)
    assert excess["d0"] > mean["d0"]  # where the reference's own loss is low, it must stay low
    assert RUN.invoke(app, ["solve", str(saved), "--objective", "best"]).exit_code == 2


def test_shares_stay_where_runs_were_until_trust_is_lifted(saved: Path) -> None:
    most = json.loads(saved.read_text())["shares_seen"]["d0"][1]
    weights = ["--weight", "d0=50", "--weight", "d1=1"]
    assert solved(saved, *weights)["d0"] == pytest.approx(most)
    assert most < solved(saved, *weights, "--trust", "1.1")["d0"] <= 1.1 * most + 1e-9
    assert solved(saved, *weights, "--trust", "none")["d0"] > most
    shown = RUN.invoke(app, ["solve", str(saved), *weights])
    assert "the most that any run saw" in shown.output
    for wrong in ("0.5", "any", "inf", "nan"):
        assert RUN.invoke(app, ["solve", str(saved), "--trust", wrong]).exit_code == 2


def test_predictions_have_intervals_that_grow_with_distance(saved: Path) -> None:
    def widths(*given: str) -> dict[str, float]:
        result = RUN.invoke(app, ["predict", str(saved), *given, "--json"])
        found = json.loads(result.stdout)["predictions"]
        return {name: one["high95"] - one["low95"] for name, one in found.items()}

    mixture = ["--mixture", "d0=0.4,d1=0.3,d2=0.3"]
    near, far = widths(*mixture), widths(*mixture, "--budget-tokens", "4e8")
    assert all(far[name] > near[name] > 0 for name in ("d0", "d1", "d2"))
    shown = RUN.invoke(app, ["predict", str(saved), *mixture])
    assert "95% interval" in shown.output
    far = RUN.invoke(
        app,
        [
            "predict",
            str(saved),
            "--mixture",
            "d0=0.98,d1=0.01,d2=0.01",
            "--at-step",
            "1e9",
            "--json",
        ],
    )
    notes = " ".join(json.loads(far.stdout)["notes"])
    assert "1e+09 steps is outside those observed" in notes
    assert "d0 gets 0.98, outside the shares observed" in notes
    unknown = RUN.invoke(app, ["predict", str(saved), "--mixture", "d0=0.5,poems=0.5"])
    assert isinstance(unknown.exception, InvalidMixture)
    assert "poems" in str(unknown.exception)


def test_first_runs_fill_what_is_allowed() -> None:
    given = ["design", "--domain", "code", "--domain", "web", "--domain", "law", "--count", "5",
             "--upper", "code=0.5", "--json"]  # fmt: skip
    found = json.loads(RUN.invoke(app, given).stdout)["mixtures"]
    assert len(found) == 5
    assert all(shares["code"] <= 0.5 + 1e-9 for shares in found.values())


def test_next_runs_come_with_advice_and_what_they_cost(saved: Path, table: Path) -> None:
    given = ["design", "--fit", str(saved), "--table", str(table), "--count", "2",
             "--tolerance", "10", "--size", "1e6:1e8", "--budget-flops", "1e16"]  # fmt: skip
    found = json.loads(RUN.invoke(app, [*given, "--json"]).stdout)
    assert len(found["mixtures"]) == 2
    assert found["decision"].startswith("Stop")
    assert found["plan"]["flops"] == pytest.approx(2 * 6e14)
    shown = RUN.invoke(app, given)
    assert "Runs to make" in shown.output
    assert "Stop" in shown.output


@pytest.mark.parametrize("given", [[], ["--size", "1e6"], ["--domain", "a", "--fit", "x.json"]])
def test_a_design_needs_to_know_of_what(given: list[str]) -> None:
    assert RUN.invoke(app, ["design", *given]).exit_code == 2


def test_bad_input_is_named(table: Path, tmp_path: Path) -> None:
    assert isinstance(RUN.invoke(app, ["fit", str(tmp_path / "x.csv")]).exception, MissingFile)
    clash = ["fit", str(table), "--law", "bimix", "--lower", "d0=0.7", "--lower", "d1=0.7"]
    assert isinstance(RUN.invoke(app, clash).exception, InfeasibleConstraints)
    half = RUN.invoke(app, ["fit", str(table), "--lower", "d0"])
    assert half.exit_code == 2
    assert "NAME=NUMBER" in half.output
    (tmp_path / "no.json").write_text("{")
    assert isinstance(RUN.invoke(app, ["solve", str(tmp_path / "no.json")]).exception, InvalidTable)


def test_inequalities_are_read_as_written() -> None:
    assert linear("code + 2*math >= 0.4") == {
        "coefficients": {"code": 1.0, "math": 2.0}, "lower": 0.4, "name": "code + 2*math >= 0.4",
    }  # fmt: skip
    # A domain's name may hold a minus: signs stand between spaces.
    assert linear("a-b - 0.5*c <= 0")["coefficients"] == {"a-b": 1.0, "c": -0.5}


@pytest.mark.parametrize("text", ["code", "code >= much", "code + >= 0.1", "x*code >= 1", ">= 1"])
def test_what_is_no_inequality_is_refused(saved: Path, text: str) -> None:
    result = RUN.invoke(app, ["solve", str(saved), "--linear", text])
    assert result.exit_code == 2
    assert "is no inequality" in result.output


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--group", "g=d0,d1", "--group", "g=d0", "--lower", "g=0.5"], "--group: 'g' is given"),
        (["--lower", "d0=0.1", "--lower", "d0=0.2"], "--lower: 'd0' is given twice"),
        (["--near", "d0=1,d0=0"], "--near: 'd0' is given twice"),
    ],
)
def test_what_is_given_twice_is_refused_not_overwritten(
    saved: Path, given: list[str], says: str
) -> None:
    result = RUN.invoke(app, ["solve", str(saved), *given], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert says in result.output


def test_a_fit_is_saved_even_where_the_question_is_refused(table: Path, tmp_path: Path) -> None:
    kept = tmp_path / "fit.json"
    given = ["--law", "bimix", "--replicates", "0", "--output", str(kept), "--lower", "zz=0.5"]
    result = RUN.invoke(app, ["fit", str(table), *given])
    assert isinstance(result.exception, InfeasibleConstraints | InvalidMixture)
    assert RUN.invoke(app, ["solve", str(kept)]).exit_code == 0


def test_a_design_is_of_first_runs_or_of_next_ones(saved: Path, table: Path) -> None:
    both = ["--domain", "d0", "--fit", str(saved), "--table", str(table)]
    for given in (both, ["--domain", "d0", "--domain", "d1", "--budget-flops", "1e20"]):
        assert RUN.invoke(app, ["design", *given]).exit_code == 2


@pytest.mark.parametrize("per_step", [0.0, -1.0, float("nan"), float("inf")])
def test_tokens_per_step_must_be_a_count(saved: Path, per_step: float) -> None:
    given = ["--budget-tokens", "1e6", "--tokens-per-step", str(per_step)]
    result = RUN.invoke(app, ["solve", str(saved), *given])
    assert isinstance(result.exception, InvalidBudget)
    assert "Tokens per step must be above 0" in str(result.exception)


def test_one_replicate_is_too_few_for_a_risk(table: Path) -> None:
    given = ["--law", "bimix", "--replicates", "1", "--risk", "0.5"]
    result = RUN.invoke(app, ["fit", str(table), *given])
    assert isinstance(result.exception, InvalidTable)
    assert "fewer than 2" in str(result.exception)
