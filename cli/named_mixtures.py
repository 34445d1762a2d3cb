"""Reading the mixtures of many runs from one file, each with its name.

.csv, .csv.gz, .parquet    columns run and mixture.<domain>, one row a run (further rows of a run
                           must agree), and, where runs have their own, seed and learning_rate
.json                      {"run-1": {"code": 0.4, "web": 0.6}, ...}
                           {"mixtures": {...}}, as `mixlab design --json` prints it
                           [{"run": "run-1", "mixture": {...}, "seed": 1}, ...]
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mixlab.errors import InvalidMixture, InvalidTable, MissingFile, TruncatedFile
from mixlab.mixture import Mixture
from mixlab.tables import MIXTURE, from_rows, read_columns

OWN = ("seed", "learning_rate")  # what a run may have for itself beside its mixture
PLAIN = re.compile(r"[A-Za-z0-9][\w.+-]{0,80}")


@dataclass(frozen=True)
class Named:
    """One run that is asked for."""

    name: str
    mixture: Mixture
    seed: int
    learning_rate: float | None

    @property
    def folder(self) -> str:
        """The name as a folder's, with a hash where it has characters that folders can't have."""
        if PLAIN.fullmatch(self.name):
            return self.name
        digest = blake2b(self.name.encode(), digest_size=4).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.name).strip('-')[:60]}-{digest}"


def named_mixtures(path: Path, *, seed: int) -> list[Named]:
    """The runs that a file asks for; `seed` is that of runs that name none.

    Raises MissingFile, TruncatedFile and InvalidTable for a file that can't be read so, and
    InvalidMixture for shares that are none.
    """
    if not path.is_file():
        raise MissingFile(f"There is no file {path} of mixtures; give a table or JSON.")
    rows = _json_rows(path) if path.suffix == ".json" else _table_rows(path)
    if not rows:
        raise InvalidTable(f"{path.name} names no run.")
    # The table's own reader checks names and shares, and takes rounded ones as it does in fits.
    plain = [{key: value for key, value in row.items() if key not in OWN} for row in rows]
    checked = from_rows([{**row, "loss.none": 1.0} for row in plain])
    found: dict[str, Named] = {}
    for row, name, shares in zip(rows, checked.runs, checked.proportions, strict=True):
        own_seed, rate = _number(row, "seed"), _number(row, "learning_rate")
        one = Named(
            name,
            Mixture.of(checked.domains, shares.tolist()),
            seed if own_seed is None else int(own_seed),
            rate,
        )
        if found.setdefault(name, one) != one:
            raise InvalidTable(
                f"{path.name}: run {name!r} stands there with unlike mixtures, seeds or rates; "
                "give each run its own name."
            )
    return list(found.values())


def _table_rows(path: Path) -> list[Mapping[str, Any]]:
    columns = read_columns(path)
    kept = [name for name in columns if name in ("run", *OWN) or name.startswith(MIXTURE)]
    if "run" not in kept or len(kept) == 1:
        raise InvalidTable(
            f"{path.name} needs a column 'run' and columns 'mixture.<domain>'; it has "
            f"{', '.join(columns)}."
        )
    count = len(columns["run"])
    return [{name: columns[name][row] for name in kept} for row in range(count)]


def _json_rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise TruncatedFile(f"{path} is no JSON: {problem}.") from problem
    if isinstance(value, dict):
        value = value.get("mixtures", value)
    if isinstance(value, dict):
        value = [{"run": name, "mixture": shares} for name, shares in value.items()]
    return list(_flat(value, path))


def _flat(value: Any, path: Path) -> Iterable[Mapping[str, Any]]:
    for row in value if isinstance(value, list) else [None]:
        if not isinstance(row, dict) or "run" not in row or not _is_mixture(row.get("mixture")):
            raise InvalidMixture(
                f"{path.name} must hold mixtures by the names of runs, or a list of "
                '{"run": ..., "mixture": {...}}.'
            )
        own = {name: row[name] for name in OWN if name in row}
        shares = {MIXTURE + domain: share for domain, share in row["mixture"].items()}
        yield {"run": row["run"], **own, **shares}


def _is_mixture(value: object) -> bool:
    return isinstance(value, dict) and bool(value)


def _number(row: Mapping[str, Any], name: str) -> float | None:
    """A cell that may be missing or blank."""
    cell = row.get(name)
    if cell is None or cell == "":
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise InvalidTable(f"Run {row['run']!r}: its {name} {cell!r} is no number.") from None
