"""What the sweep deletes once an hour: what is older than MIXLAB_RETENTION_DAYS and serves nobody.

    the ledger              events of jobs that ended, and jobs that came to nothing
    home/logs               logs of the attempts of such jobs
    home/runs               folders of proxy runs: what they measured stands in the ledger
    home/corpora, /observations     temporary files of processes that were killed while writing
    home/sweep-*.alive      of sweeps that are no more

Full runs keep their weights, whatever their age. What is deleted is found by what lies in the home
folder, so that a sweep that is killed half-way leaves nothing that the next one wouldn't find.
Limits: links are not followed, out of the home folder least of all.
"""

import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from mixlab.ledger import Ledger
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)

_LOG = re.compile(r"(job_[0-9a-f]+)\.\d+\.log")
_RUN = re.compile(r"run_[0-9a-f]+")
_SWEEP = re.compile(r"sweep-.+\.alive")  # of containers that are no more
_TEMPORARY = re.compile(r"\.\d+-.+")  # as mixlab.corpora.shards.write_atomically names them
LEFT_BEHIND_SECONDS = 24 * 3600.0  # no single file is written for so long


def retain(ledger: Ledger, settings: WorkerSettings) -> None:
    """Forget and delete what is old enough. Raises SQLAlchemyError where the ledger is away."""
    if settings.retention_days == 0:
        return
    keep = timedelta(days=settings.retention_days)
    trees = 0
    while found := ledger.prune(keep):
        trees += found
    home = settings.home
    logs = _delete_logs(ledger, _own(home, "logs"), keep)
    runs = _delete_runs(ledger, _own(home, "runs"), keep)
    leftovers = sum(_delete_leftovers(_own(home, name)) for name in ("corpora", "observations"))
    leftovers += sum(_unlinked(path) for path in _files(home, _SWEEP) if _is_left_behind(path))
    if trees or logs or runs or leftovers:
        log.info(
            "retention: went through %d trees of jobs; deleted %d logs, %d folders of proxy runs "
            "and %d leftovers", trees, logs, runs, leftovers,
        )  # fmt: skip


def _own(home: Path, name: str) -> Path | None:
    """A folder of the home folder; None where it is missing, or is a link to some other place."""
    folder = home / name
    return folder if folder.is_dir() and not folder.is_symlink() else None


def _delete_logs(ledger: Ledger, folder: Path | None, keep: timedelta) -> int:
    before = time.time() - keep.total_seconds()
    old: dict[str, list[Path]] = {}
    for path in _files(folder, _LOG):
        if _modified(path) < before:
            old.setdefault(path.name.partition(".")[0], []).append(path)
    over = ledger.over(list(old), keep)
    return sum(_unlinked(path) for job_id in over for path in old[job_id])


def _delete_runs(ledger: Ledger, folder: Path | None, keep: timedelta) -> int:
    there = {path.name: path for path in _files(folder, _RUN) if path.is_dir()}
    spent = ledger.spent_runs(list(there), keep)
    for run_id in spent:
        shutil.rmtree(there[run_id], ignore_errors=True)
    return len(spent)


def _delete_leftovers(folder: Path | None) -> int:
    folders = [] if folder is None else [folder, *_folders(folder)]
    found = (path for each in folders for path in _files(each, _TEMPORARY) if path.is_file())
    return sum(_unlinked(path) for path in found if _is_left_behind(path))


def _is_left_behind(path: Path) -> bool:
    return _modified(path) < time.time() - LEFT_BEHIND_SECONDS


def _folders(folder: Path) -> Iterator[Path]:
    """All below, links left out."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield path
            yield from _folders(path)


def _files(folder: Path | None, name: re.Pattern[str]) -> list[Path]:
    """What is so named in a folder, links left out."""
    paths = [] if folder is None else folder.iterdir()
    return [path for path in paths if name.fullmatch(path.name) and not path.is_symlink()]


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _unlinked(path: Path) -> int:
    with suppress(FileNotFoundError):
        path.unlink()
        return 1
    return 0
