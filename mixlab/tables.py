"""Tables of observations: wide CSV or Parquet, and the same as rows for JSON.

    run, step and/or tokens, [params], [unique_tokens], mixture.<domain> ..., loss.<target> ...

One row is one evaluation of one run. A blank loss was not measured; "nan" and "inf" are
errors, since a diverged run must not pass for an unmeasured one. Proportions that sum to 1 within
0.01 are taken as rounded and normalised (RegMix's tables sum to 0.996 to 1.003); a larger gap
is an error. Without a step, tokens are the step variable; without either, all rows are one step,
numbered 1. Other columns are ignored. What was blank, normalised or ignored is counted in a
TableReport.
"""

import csv
import gzip
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixlab.errors import InvalidLoss, InvalidTable, MissingFile, TruncatedFile
from mixlab.mixture import Array
from mixlab.runs import Observations

ROUNDING = 0.01
EXACT = 1e-6
# Beyond these no run goes, and powers and squares of numbers would overflow.
LEAST, MOST = 1e-9, 1e30
MOST_NATS = 1e9
MIXTURE, LOSS = "mixture.", "loss."
KNOWN = ("run", "step", "tokens", "params", "unique_tokens")

Cell = str | float | int | None
Columns = dict[str, list[Cell]]


@dataclass
class TableReport:
    """What reading a table did to it; filled in by the reader."""

    rows: int = 0
    blank_losses: int = 0
    normalised_rows: int = 0
    tokens_as_step: bool = False
    one_step: bool = False  # neither steps nor tokens are known
    remarks: list[str] = field(default_factory=list)  # what an import did before
    ignored_columns: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """The report in words, nothing where the table was taken as it is."""
        notes = list(self.remarks)
        if self.blank_losses:
            notes.append(f"{self.blank_losses} blank losses were skipped as not measured")
        if self.normalised_rows:
            notes.append(f"proportions of {self.normalised_rows} rows were rounded; normalised")
        if self.tokens_as_step:
            notes.append("there is no step column, so tokens are the law's step")
        if self.one_step:
            notes.append(
                "there is no step and no tokens column, so all rows are taken as one step, "
                "numbered 1; the law can't speak of longer or shorter runs"
            )
        if self.ignored_columns:
            notes.append(f"ignored columns: {', '.join(self.ignored_columns)}")
        return notes


def read_table(path: Path | str, *, report: TableReport | None = None) -> Observations:
    """Observations from a .csv, .csv.gz or .parquet file.

    Raises MissingFile, TruncatedFile for a damaged file, InvalidTable naming the column and row,
    and InvalidLoss for losses that are NaN, infinite or not above 0.
    """
    return from_columns(read_columns(path), report=report)


def read_columns(path: Path | str) -> Columns:
    """A file's columns by name as they stand, unread cells of CSV as text, blanks as None.

    Raises MissingFile, TruncatedFile and, for a file that is no table, InvalidTable.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"There is no table {path}; give a CSV or Parquet file.")
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return _csv(path)
    raise InvalidTable(f"{path.name} is no table; it must end in .csv, .csv.gz or .parquet.")


def from_rows(
    rows: Sequence[Mapping[str, Any]], *, report: TableReport | None = None
) -> Observations:
    """Observations from rows as JSON gives them: flat (`{"mixture.code": 0.5}`) or nested
    (`{"mixture": {"code": 0.5}, "loss": {"code": 2.1}}`).

    A domain that a row does not name has a share of 0 in it; a target that it does not name, or
    names with null, was not measured. Raises as `read_table`.
    """
    flat = [dict(_flat(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    absent: dict[str, Cell] = {name: 0.0 for name in names if name.startswith(MIXTURE)}
    columns = {name: [row.get(name, absent.get(name)) for row in flat] for name in names}
    return from_columns(columns, report=report)


def to_rows(observations: Observations) -> list[dict[str, Any]]:
    """Flat rows that `from_rows` reads back; what is not known is None."""
    columns = _columns(observations)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def write_table(observations: Observations, path: Path | str) -> None:
    """Write a .csv or .parquet table that `read_table` reads back to the same numbers.

    The file appears whole or not at all. Raises InvalidTable for another ending.
    """
    path = Path(path)
    columns = _columns(observations)
    partial = path.with_name(f".{path.name}.partial")
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), partial)
    elif path.suffix == ".csv":
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            # csv writes None as a blank, and floats so that they read back exactly.
            writer.writerows(zip(*columns.values(), strict=True))
    else:
        raise InvalidTable(f"{path.name} must end in .csv or .parquet.")
    os.replace(partial, path)


def _columns(observations: Observations) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"run": list(observations.runs)}
    if not np.array_equal(observations.steps, observations.tokens):
        columns["step"] = _numbers(observations.steps)
    known = {
        "tokens": observations.tokens,
        "params": observations.params,
        "unique_tokens": observations.unique_tokens,
    }
    for name, values in known.items():
        if not np.all(np.isnan(values)):
            columns[name] = _numbers(values)
    for domain, shares in zip(observations.domains, observations.proportions.T, strict=True):
        columns[MIXTURE + domain] = shares.tolist()
    for target, losses in zip(observations.targets, observations.losses_nats.T, strict=True):
        columns[LOSS + target] = _numbers(losses)
    return columns


def _numbers(values: Array) -> list[float | int | None]:
    """None for what is not known; whole columns of whole numbers as such."""
    known = values[~np.isnan(values)]
    whole = bool(np.all((known == np.floor(known)) & (known < 2**53)))
    return [None if isnan(value) else int(value) if whole else value for value in values.tolist()]


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            prefix = "loss" if name == "losses_nats" else name
            yield from ((f"{prefix}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _csv(path: Path) -> Columns:
    try:
        with _opened(path) as file:
            lines = list(csv.reader(file))
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError, csv.Error) as error:
        raise TruncatedFile(f"{path.name} is damaged or no CSV text: {error}.") from error
    if not lines:
        raise InvalidTable(f"{path.name} is empty; its first line must name the columns.")
    header = [name.strip() for name in lines[0]]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise InvalidTable(f"{path.name} names {', '.join(repeated)} more than once.")
    # Blank lines at the end are no rows.
    rows = [line for line in lines[1:] if any(cell.strip() for cell in line)]
    for number, line in enumerate(rows, start=1):
        if len(line) != len(header):
            raise InvalidTable(
                f"{path.name}, row {number}: {len(line)} cells, but the header names {len(header)}."
            )
    return {
        name: [line[index].strip() or None for line in rows] for index, name in enumerate(header)
    }


def _opened(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding="utf-8-sig")
    return path.open(newline="", encoding="utf-8-sig")


def _parquet(path: Path) -> Columns:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise TruncatedFile(f"{path.name} is damaged or no Parquet file: {error}.") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def from_columns(columns: Columns, *, report: TableReport | None = None) -> Observations:
    """Observations from columns named as in this module's table. Raises as `read_table`."""
    report = report or TableReport()
    domains = [name for name in columns if name.startswith(MIXTURE)]
    targets = [name for name in columns if name.startswith(LOSS)]
    _check_columns(columns, domains, targets)
    report.rows = len(columns["run"])
    report.ignored_columns += [
        name for name in columns if name not in KNOWN and name not in domains + targets
    ]
    tokens, steps = _positive(columns, "tokens"), _positive(columns, "step")
    if "step" not in columns and "tokens" not in columns:
        report.one_step, steps = True, np.ones(report.rows)
    elif np.all(np.isnan(steps)):
        report.tokens_as_step, steps = True, tokens
    _check_known(steps, "tokens" if report.tokens_as_step else "step")
    params = _positive(columns, "params")
    _check_sizes(params)
    losses = np.stack([_losses(columns, name) for name in targets], axis=1)
    report.blank_losses += int(np.isnan(losses).sum())
    return Observations(
        runs=tuple(_run(cell, row) for row, cell in enumerate(columns["run"], start=1)),
        domains=tuple(name.removeprefix(MIXTURE) for name in domains),
        targets=tuple(name.removeprefix(LOSS) for name in targets),
        proportions=_proportions(columns, domains, report),
        steps=steps,
        tokens=tokens,
        losses_nats=losses,
        params=params,
        unique_tokens=_positive(columns, "unique_tokens"),
    )


def _check_columns(columns: Columns, domains: list[str], targets: list[str]) -> None:
    named = ", ".join(columns) or "none"
    if "run" not in columns:
        raise InvalidTable(f"There is no column 'run', one name per training run; found: {named}.")
    if len(domains) == 1:
        raise InvalidTable(
            "A table needs at least two columns 'mixture.<domain>', or none where all runs had the "
            f"same training data, not one; found: {named}."
        )
    if not targets:
        raise InvalidTable(f"There is no column 'loss.<target>'; found: {named}.")
    if not columns["run"]:
        raise InvalidTable("The table has a header but no rows.")


def _run(cell: Cell, row: int) -> str:
    if cell is None or str(cell) == "":
        raise InvalidTable(f"Column 'run', row {row}: the run has no name.")
    return str(cell)


def _parsed(columns: Columns, name: str) -> Iterable[tuple[int, float | None]]:
    """Row numbers from 1 and numbers; None where the cell is blank."""
    for row, cell in enumerate(columns[name], start=1):
        if cell is None or cell == "":
            yield row, None
            continue
        try:
            yield row, float(cell)
        except (TypeError, ValueError):
            raise InvalidTable(f"Column {name!r}, row {row}: {cell!r} is no number.") from None


def _positive(columns: Columns, name: str) -> Array:
    """A column of numbers above 0, NaN where blank or where there is no such column."""
    values = np.full(len(columns["run"]), np.nan)
    if name not in columns:
        return values
    for row, value in _parsed(columns, name):
        if value is not None and not (isfinite(value) and value > 0):
            raise InvalidTable(f"Column {name!r}, row {row}: {value} must be above 0.")
        if value is not None and not LEAST <= value <= MOST:
            raise InvalidTable(
                f"Column {name!r}, row {row}: {value:g} is no count of a run; it lies from "
                f"{LEAST:g} to {MOST:g}."
            )
        values[row - 1] = np.nan if value is None else value
    return values


def _check_known(steps: Array, name: str) -> None:
    blank = np.flatnonzero(np.isnan(steps))
    if len(blank):
        raise InvalidTable(f"Column {name!r}, row {blank[0] + 1}: blank; every row needs one.")


def _check_sizes(params: Array) -> None:
    """Rows of unknown size among several sizes would pass for any of them."""
    blank = np.flatnonzero(np.isnan(params))
    known = np.unique(params[~np.isnan(params)])
    if len(blank) and len(known) > 1:
        raise InvalidTable(
            f"Column 'params', row {blank[0] + 1}: blank ({len(blank)} such rows), but the others "
            f"have {len(known)} sizes; give every run its size, or leave out these rows."
        )


def _losses(columns: Columns, name: str) -> Array:
    losses = np.full(len(columns["run"]), np.nan)
    for row, value in _parsed(columns, name):
        if value is not None and not (isfinite(value) and value > 0):
            raise InvalidLoss(
                f"Run {columns['run'][row - 1]!r}, column {name!r}, row {row}: the loss is "
                f"{value}, which is not a finite number above 0. Leave out runs that diverged, and "
                "leave cells blank where nothing was measured."
            )
        if value is not None and not LEAST <= value <= MOST_NATS:
            raise InvalidLoss(
                f"Run {columns['run'][row - 1]!r}, column {name!r}, row {row}: the loss is "
                f"{value:g}, which is none in nats per token; it lies from {LEAST:g} to "
                f"{MOST_NATS:g}. Take the logarithm of perplexities, and leave out runs that "
                "diverged."
            )
        losses[row - 1] = np.nan if value is None else value
    return losses


def _proportions(columns: Columns, domains: list[str], report: TableReport) -> Array:
    """Shares that sum to 1, (row, domain)."""
    shares = np.zeros((len(columns["run"]), len(domains)))
    for index, name in enumerate(domains):
        for row, value in _parsed(columns, name):
            if value is None:
                raise InvalidTable(
                    f"Column {name!r}, row {row}: blank; write 0 where the domain wasn't used."
                )
            if not isfinite(value) or value < 0:
                raise InvalidTable(f"Column {name!r}, row {row}: {value} is no proportion.")
            shares[row - 1, index] = value
    if not domains:  # all runs had the same training data
        return shares
    totals = shares.sum(axis=1)
    wrong = np.flatnonzero(np.abs(totals - 1) > ROUNDING)
    if len(wrong):
        raise InvalidTable(
            f"Row {wrong[0] + 1} (run {columns['run'][wrong[0]]!r}): the proportions sum to "
            f"{totals[wrong[0]]:.4g}, not 1 ({len(wrong)} such rows). Every domain of the training "
            "mixture needs a column, as a share and not in percent."
        )
    rounded = np.abs(totals - 1) > EXACT
    report.normalised_rows += int(rounded.sum())
    shares[rounded] /= totals[rounded, None]
    return shares
