"""Tables as other systems write them, read as observations: one small `Format` each.

    olmix     ratios.csv + metrics.csv      run | run_id, [name], <domain> ... ; <metric> ...
    regmix    mixtures + losses             index, train_[the_pile_]<domain> ... ;
                                            metric/[the_pile_]<domain>_val_loss ...
    scalefit  one table (Apple)             weight_<domain> ..., model_size, n_tokens,
                                            <target>_loss ...
    sldbench  one table                     group (70M), proportion_<domain> ..., loss_<domain> ...

Sources: github.com/allenai/olmix (README, `olmix/fit/loaders.py`), github.com/sail-sg/regmix
(`regression_fitting/data`), github.com/apple/ml-scalefit, SLDBench's domain mixture task. Two
tables are joined by the run's name, never by position. What a format does not hold, tokens or
the model's size, may be given for all rows. Everything else is as in `mixlab/tables.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixlab.errors import InvalidTable
from mixlab.runs import Observations
from mixlab.tables import (
    LOSS,
    MIXTURE,
    Cell,
    Columns,
    TableReport,
    from_columns,
    read_columns,
)

SIZES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Format:
    """How a system names its columns. `share` and `loss` are patterns whose group is the name."""

    name: str
    layout: str  # in words, for messages
    files: tuple[str, ...]  # what each file holds: shares first
    share: str
    loss: str
    runs: tuple[str, ...] = ()  # columns that name the run, the first one found; or none
    params: str | None = None
    tokens: str | None = None
    ignored: tuple[str, ...] = ()
    remark: str | None = None  # what a reader should know of its losses


FORMATS = {
    found.name: found
    for found in (
        Format(
            name="olmix",
            layout="'run' or 'run_id', then one column a domain; the same, then one a metric",
            files=("ratios", "metrics"),
            share="(.+)",
            loss="(.+)",
            runs=("run", "run_id"),
            ignored=("name", "index", "Unnamed: 0", ""),
            remark="Olmix's metrics are bits per byte as a rule; they were taken as they stand",
        ),
        Format(
            name="regmix",
            layout="'index', then 'train_<domain>'; 'index', then 'metric/<domain>_val_loss'",
            files=("mixtures", "losses"),
            share="train_(?:the_pile_)?(.+)",
            loss="metric/(?:the_pile_)?(.+)_val_loss",
            runs=("index",),
        ),
        Format(
            name="scalefit",
            layout="'weight_<domain>', 'model_size', 'n_tokens', '<target>_loss'",
            files=("table",),
            share="weight_(.+)",
            loss="(.+)_loss",
            params="model_size",
            tokens="n_tokens",
        ),
        Format(
            name="sldbench",
            layout="'group' (a size such as 70M), 'proportion_<domain>', 'loss_<domain>'",
            files=("table",),
            share="proportion_(.+)",
            loss="loss_(.+)",
            params="group",
        ),
    )
}


def import_files(
    format_name: str,
    paths: Sequence[Path | str],
    *,
    params: float | None = None,
    tokens: float | None = None,
    report: TableReport | None = None,
) -> Observations:
    """Observations from a format's files, in the order that the format names them.

    Raises as `import_columns`, and MissingFile or TruncatedFile.
    """
    found = format_named(format_name)
    if len(paths) != len(found.files):
        raise InvalidTable(
            f"The format {found.name} is {len(found.files)} file(s), {' and '.join(found.files)}; "
            f"{len(paths)} were given."
        )
    tables = {Path(path).name: read_columns(path) for path in paths}
    if len(tables) < len(paths):
        tables = {str(path): read_columns(path) for path in paths}
    return import_columns(found, tables, params=params, tokens=tokens, report=report)


def format_named(name: str) -> Format:
    """The format of that name. Raises InvalidTable, naming those there are."""
    if name not in FORMATS:
        raise InvalidTable(f"There is no format {name!r}; there are {', '.join(FORMATS)}.")
    return FORMATS[name]


def import_columns(
    found: Format,
    tables: Mapping[str, Columns],
    *,
    params: float | None = None,
    tokens: float | None = None,
    report: TableReport | None = None,
) -> Observations:
    """Observations from columns, `tables` being the format's tables by the files' names.

    `params` and `tokens` hold for all rows of a format without such a column. Raises InvalidTable
    for columns that are not the format's, runs named twice or in one table alone, and as
    `read_table` does.
    """
    report = report or TableReport()
    if found.remark:
        report.remarks.append(found.remark)
    shares, losses = _parted(found, tables)
    columns = _named(found, *shares, prefix=MIXTURE) | _named(found, *losses, prefix=LOSS)
    rows = len(next(iter(shares[1].values()), []))
    given = {"params": (found.params, params), "tokens": (found.tokens, tokens)}
    for name, (column, value) in given.items():
        columns |= _told(shares, name, column, value, rows)
    columns["run"] = list(_run_names(found, shares, rows))
    if len(tables) == 2:
        columns = _joined(found, columns, shares, losses)
    return from_columns(columns, report=report)


Table = tuple[str, Columns]


def _parted(found: Format, tables: Mapping[str, Columns]) -> tuple[Table, Table]:
    """The table with the shares and that with the losses: one and the same in some formats."""
    first, *rest = tables.items()
    return first, rest[0] if rest else first


def _named(found: Format, file: str, columns: Columns, *, prefix: str) -> Columns:
    """The columns of shares, or of losses, under this project's names."""
    pattern, other = (found.share, found.loss) if prefix == MIXTURE else (found.loss, found.share)
    known = {*found.runs, *found.ignored, found.params, found.tokens}
    answer: Columns = {}
    for name, cells in columns.items():
        match = re.fullmatch(pattern, name)
        if name in known or (not match and len(found.files) == 1 and re.fullmatch(other, name)):
            continue
        if not match:
            raise InvalidTable(
                f"{file}: column {name!r} is none of the format {found.name}, which is "
                f"{found.layout}. Is this the right file, and in the right place?"
            )
        if prefix + match[1] in answer:
            raise InvalidTable(f"{file}: two columns are named for {match[1]!r}; one is {name!r}.")
        answer[prefix + match[1]] = cells
    if not answer:
        raise InvalidTable(f"{file} has none of the columns of {found.name}: {found.layout}.")
    return answer


def _told(table: Table, name: str, column: str | None, value: float | None, rows: int) -> Columns:
    """A column of tokens or model sizes: the format's own, or the value that holds for all."""
    file, columns = table
    if column is None:
        return {} if value is None else {name: [value] * rows}
    if value is not None:
        raise InvalidTable(f"{file} tells the {name} in {column!r}; don't give {name} beside it.")
    if column not in columns:
        raise InvalidTable(f"{file} has no column {column!r}; found: {', '.join(columns)}.")
    return {name: [_number(file, column, cell, at) for at, cell in enumerate(columns[column], 1)]}


def _number(file: str, column: str, cell: Cell, row: int) -> Cell:
    """A number, also as sizes are written: 70M is 70,000,000."""
    if not isinstance(cell, str):
        return cell
    match = re.fullmatch(r"([\d.]+(?:[eE][+-]?\d+)?)([KMBT]?)", cell.strip())
    try:
        return float(match[1]) * SIZES[match[2]] if match else float(cell)
    except ValueError:
        raise InvalidTable(
            f"{file}, column {column!r}, row {row}: {cell!r} is no number such as 70M or 7e7."
        ) from None


def _run_names(found: Format, table: Table, rows: int) -> Sequence[str]:
    """The runs' names; where a format has none, a run is a mixture trained at one size."""
    if found.runs:
        return _ids(found, table)
    columns = table[1]
    of_run = [name for name in columns if re.fullmatch(found.share, name)]
    of_run += [name for name in (found.params,) if name in columns]
    keys = list(zip(*(columns[name] for name in of_run), strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys), start=1)}
    return [f"run {numbers[key]}" for key in keys]


def _ids(found: Format, table: Table) -> list[str]:
    """Each row's run, which must be named, and named once."""
    file, columns = table
    column = next((name for name in found.runs if name in columns), None)
    if column is None:
        raise InvalidTable(
            f"{file} has no column {' or '.join(map(repr, found.runs))} to join the tables by; "
            f"found: {', '.join(columns) or 'none'}."
        )
    names = ["" if cell is None else str(cell).strip() for cell in columns[column]]
    seen: dict[str, int] = {}
    for row, name in enumerate(names, start=1):
        if not name:
            raise InvalidTable(f"{file}, column {column!r}, row {row}: the run has no name.")
        if name in seen:
            raise InvalidTable(
                f"{file} names run {name!r} twice, in rows {seen[name]} and {row}; "
                "seeds of one mixture need names of their own."
            )
        seen[name] = row
    return names


def _joined(found: Format, columns: Columns, shares: Table, losses: Table) -> Columns:
    """The losses put beside the shares of the same run, in the order of the shares."""
    wanted, places = columns["run"], {run: row for row, run in enumerate(_ids(found, losses))}
    _check_matched(shares[0], [str(run) for run in wanted], losses[0], list(places))
    order = [places[str(run)] for run in wanted]
    return {
        name: [cells[row] for row in order] if name.startswith(LOSS) else cells
        for name, cells in columns.items()
    }


def _check_matched(one: str, runs: Sequence[str], other: str, others: Sequence[str]) -> None:
    for file, mine, beside, theirs in ((one, runs, other, others), (other, others, one, runs)):
        lone = [run for run in mine if run not in set(theirs)]
        if lone:
            some = ", ".join(map(repr, lone[:5])) + (", ..." if len(lone) > 5 else "")
            raise InvalidTable(
                f"{len(lone)} runs of {file} are not in {beside}: {some}. Leave them out of "
                f"{file}, or add them to {beside}."
            )
