"""Tables read back as written, and errors name the column and the row."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlab.errors import InvalidLoss, InvalidTable, MissingFile, TruncatedFile
from mixlab.runs import Observations
from mixlab.tables import TableReport, from_rows, read_table, to_rows, write_table
from tests.synthetic import mixtures, observe

HEADER = "run,step,tokens,mixture.code,mixture.law,loss.code,loss.law\n"
ROWS = "a,100,4096,0.25,0.75,2.5,3.5\nb,100,4096,0.5,0.5,2.4,3.6\n"


def assert_same(one: Observations, other: Observations) -> None:
    assert (one.runs, one.domains, one.targets) == (other.runs, other.domains, other.targets)
    for name in ("proportions", "steps", "tokens", "losses_nats", "params"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture
def seen() -> Observations:
    found = observe(mixtures(4, 6), noise=0.01)
    found.losses_nats[2, 1] = np.nan
    found.tokens[4] = np.nan
    found.params[:3] = 230_000
    return found


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_what_is_written_reads_back_to_the_bit(
    seen: Observations, tmp_path: Path, name: str
) -> None:
    write_table(seen, tmp_path / name)
    report = TableReport()
    assert_same(read_table(tmp_path / name, report=report), seen)
    assert (report.rows, report.blank_losses) == (len(seen), 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_rows_read_back_to_the_bit(seen: Observations) -> None:
    assert_same(from_rows(to_rows(seen)), seen)


def test_nested_rows_say_the_same_as_flat_ones() -> None:
    nested = [
        {"run": "a", "step": 5, "mixture": {"x": 0.5, "y": 0.5}, "losses_nats": {"x": 2.0}},
        {"run": "b", "step": 5, "mixture": {"y": 1.0}, "loss": {"x": 3.0, "y": 4.0}},
    ]
    found = from_rows(nested)
    np.testing.assert_array_equal(found.proportions, [[0.5, 0.5], [0, 1]])
    np.testing.assert_array_equal(found.losses_nats, [[2, np.nan], [3, 4]])
    assert np.isnan(found.tokens).all()


def test_tokens_serve_as_the_step_and_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text((HEADER + ROWS).replace("step,", "").replace(",100,", ","))
    report = TableReport()
    found = read_table(path, report=report)
    np.testing.assert_array_equal(found.steps, [4096, 4096])
    assert report.tokens_as_step
    assert any("tokens are the law's step" in note for note in report.notes())


def test_without_step_and_tokens_all_rows_are_one_step_and_it_is_said() -> None:
    report = TableReport()
    row = {"run": "a", "mixture.x": 0.5, "mixture.y": 0.5, "loss.x": 2.0}
    found = from_rows([row, row | {"run": "b"}], report=report)
    np.testing.assert_array_equal(found.steps, [1, 1])
    assert np.isnan(found.tokens).all()
    assert any("one step" in note for note in report.notes())
    assert_same(from_rows(to_rows(found)), found)


def test_a_table_for_laws_of_size_and_tokens_needs_no_mixture() -> None:
    found = from_rows([{"run": "a", "tokens": 2e9, "params": 1e6, "loss.web": 3.0}])
    assert (found.domains, found.proportions.shape) == ((), (1, 0))
    assert_same(from_rows(to_rows(found)), found)


def test_rounded_proportions_are_normalised_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "a,100,4096,0.25,0.747,2.5,3.5\n" + ROWS)
    report = TableReport()
    found = read_table(path, report=report)
    np.testing.assert_allclose(found.proportions.sum(axis=1), 1, atol=1e-12)
    assert report.normalised_rows == 1


def test_other_columns_are_ignored_and_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress((HEADER.replace("run", "run,seed") + "a,7,100,4096,0.25,0.75,2.5,\n").encode()))  # fmt: skip # noqa: E501
    report = TableReport()
    found = read_table(path, report=report)
    assert report.ignored_columns == ["seed"]
    assert np.isnan(found.losses_nats[0, 1])


BAD: list[tuple[str, str]] = [
    ("", "is empty"),
    (HEADER, "no rows"),
    (HEADER.replace("run,", "") + "1,1,.5,.5,1,1\n", "no column 'run'"),
    ("run,step,mixture.a,loss.a\nx,1,1,1\n", "at least two columns"),
    ("run,step,mixture.a,mixture.b\nx,1,.5,.5\n", r"no column 'loss.<target>'"),
    (HEADER.replace("tokens", "step"), "names step more than once"),
    (HEADER + "a,100,4096,0.25\n", "row 1: 4 cells, but the header names 7"),
    (HEADER + ROWS + "c,100,4096,0.6,0.6,2,3\n", r"Row 3 \(run 'c'\).*sum to 1.2"),
    (HEADER + ROWS + "c,100,4096,60,40,2,3\n", r"sum to 100, not 1.*not in percent"),
    (HEADER + ROWS + "c,100,4096,-0.2,1.2,2,3\n", "'mixture.code', row 3: -0.2 is no proportion"),
    (HEADER + ROWS + "c,100,4096,nan,1,2,3\n", "'mixture.code', row 3: nan is no proportion"),
    (HEADER + ROWS + "c,100,4096,,1,2,3\n", "'mixture.code', row 3: blank; write 0"),
    (HEADER + ROWS + "c,100,4096,half,1,2,3\n", "'mixture.code', row 3: 'half' is no number"),
    (HEADER + ROWS + "c,0,4096,0.5,0.5,2,3\n", "'step', row 3: 0.0 must be above 0"),
    (HEADER + ROWS + "c,,4096,0.5,0.5,2,3\n", "'step', row 3: blank"),
    (HEADER + ROWS + ",1,4096,0.5,0.5,2,3\n", "'run', row 3: the run has no name"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_table_names_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InvalidTable, match=message):
        read_table(path)


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf", "0", "-2"])
def test_a_loss_that_is_no_loss_names_run_column_and_row(loss: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + ROWS + f"c,1,4096,0.5,0.5,2,{loss}\n")
    with pytest.raises(InvalidLoss, match=r"Run 'c', column 'loss.law', row 3"):
        read_table(path)


def test_nan_is_no_blank_in_parquet_and_json_either(tmp_path: Path) -> None:
    row: dict[str, Any] = {"run": "a", "step": 1, "mixture.x": 0.5, "mixture.y": 0.5}
    table = pa.table({name: [value] for name, value in row.items()} | {"loss.x": [float("nan")]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InvalidLoss):
        read_table(tmp_path / "t.parquet")
    with pytest.raises(InvalidLoss):
        from_rows([row | {"loss.x": float("nan")}])
    assert np.isnan(from_rows([row | {"loss.x": None, "loss.y": 1.0}]).losses_nats[0, 0])


def test_damaged_and_missing_files(tmp_path: Path, seen: Observations) -> None:
    write_table(seen, tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((HEADER + ROWS).encode())[:-12])
    (tmp_path / "t.csv").write_bytes(b"run,\xff\xfe\n")
    for name in ("t.parquet", "t.csv.gz", "t.csv"):
        with pytest.raises(TruncatedFile, match=name):
            read_table(tmp_path / name)
    with pytest.raises(MissingFile):
        read_table(tmp_path / "none.csv")
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(InvalidTable, match=r"\.parquet"):
        read_table(tmp_path / "t.xlsx")
    with pytest.raises(InvalidTable):
        write_table(seen, tmp_path / "t.txt")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("loss.x", 1e300, "logarithm of perplexities"),
        ("loss.x", 1e-300, "1e-09 to 1e"),
        ("step", 1e300, "row 1: 1e\\+300 is no count"),
        ("tokens", 1e-300, "no count"),
        ("params", 1e300, "no count"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused(name: str, value: float, says: str) -> None:
    row = {"run": "a", "step": 5, "mixture.x": 0.5, "mixture.y": 0.5, "loss.x": 2.0}
    with pytest.raises((InvalidLoss, InvalidTable), match=says):
        from_rows([row | {name: value}])


def test_rows_of_unknown_size_among_several_sizes_are_refused() -> None:
    row = {"run": "a", "step": 5, "mixture.x": 0.5, "mixture.y": 0.5, "loss.x": 2.0}
    sizes = [row | {"params": 1e6}, row | {"params": 1e7}, row | {"params": None}]
    with pytest.raises(InvalidTable, match="'params', row 3: blank"):
        from_rows(sizes)
    assert len(from_rows([sizes[0], sizes[2]])) == 2
