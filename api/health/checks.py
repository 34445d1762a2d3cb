"""What the service stands on, looked at one by one. Nothing here tells a secret, a host or a path.

The ledger and its schema stop the service. Without the broker, the workers or the disk requests
are recorded all the same, and their jobs start once these are back.
"""

import logging
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from api.dependencies import Resources
from api.errors import LedgerUnreachable
from api.health.schemas import Check
from mixlab.errors import MixlabError, NotReady

log = logging.getLogger(__name__)

STOP_THE_SERVICE = ("ledger", "migrations")
HEARD_WITHIN = timedelta(seconds=60)
LEAST_FREE_BYTES = 2**30
MIB = 2**20


def all_checks(resources: Resources) -> dict[str, Check]:
    """Each check by its name."""
    checks = _ledger(resources)
    checks["broker"] = _broker(resources)
    checks["workers"] = _workers(resources) if checks["ledger"].ok else _unknown()
    checks["home"] = _home(resources)
    return checks


def _unknown() -> Check:
    return Check(ok=False, detail="Only the ledger could say.")


def _ledger(resources: Resources) -> dict[str, Check]:
    answers = Check(ok=True, detail="The ledger answers.")
    try:
        resources.ledger().check()
    except NotReady as problem:
        return {"ledger": answers, "migrations": Check(ok=False, detail=str(problem))}
    except MixlabError as problem:  # a newer mixlab has moved it on
        return {"ledger": answers, "migrations": Check(ok=False, detail=str(problem))}
    except (LedgerUnreachable, SQLAlchemyError) as problem:
        # Only the class: drivers quote the URL, and its password with it.
        log.warning("the ledger doesn't answer: %s", type(problem).__name__)
        told = f"The ledger doesn't answer ({type(problem).__name__})."
        return {"ledger": Check(ok=False, detail=told), "migrations": _unknown()}
    return {"ledger": answers, "migrations": Check(ok=True, detail="This version's schema.")}


def _broker(resources: Resources) -> Check:
    if resources.dispatcher.reachable():
        return Check(ok=True, detail="The broker answers.")
    return Check(ok=False, detail="The broker doesn't answer; jobs stay queued until it does.")


def _workers(resources: Resources) -> Check:
    try:
        found = resources.ledger().fleet.heard(HEARD_WITHIN)
    except (LedgerUnreachable, SQLAlchemyError):
        return _unknown()
    heard = {queue.value: count for queue, count in found.items()}
    missing = [queue for queue, count in heard.items() if not count]
    if not missing:
        return Check(ok=True, detail="Every queue has a worker.", figures=heard)
    told = f"No worker was heard of in the last {HEARD_WITHIN.seconds} s for: {', '.join(missing)}."
    return Check(ok=False, detail=told, figures=heard)


def _home(resources: Resources) -> Check:
    space = resources.disk.look()
    if space is None:
        return Check(ok=False, detail="The home folder is missing, or its disk doesn't answer.")
    figures = {"free_bytes": space.free_bytes, "size_bytes": space.size_bytes}
    if not space.writable:
        return Check(ok=False, detail="The home folder takes no file.", figures=figures)
    if space.free_bytes < LEAST_FREE_BYTES:
        told = f"Only {space.free_bytes // MIB} MiB are free in the home folder."
        return Check(ok=False, detail=told, figures=figures)
    return Check(ok=True, detail="The home folder takes files.", figures=figures)
