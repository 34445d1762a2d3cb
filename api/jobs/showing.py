"""One job as an answer: its ETag, when to ask again, whether the client knows it already."""

from fastapi import Response

from api.jobs.seen import Seen
from api.preferring import APPLIED

RETRY_AFTER_SECONDS = 2


def etag_of(seen: Seen) -> str:
    """Of the job and its children, whose progress shows in it."""
    return f'W/"{seen.version}"'


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether one of the header's tags is this one, compared weakly."""
    given = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return "*" in given or etag.removeprefix("W/") in given


def shown(
    seen: Seen, *, if_none_match: str | None = None, waited: int | None = None, status: int = 200
) -> Response:
    """The answer that shows a job; 304 where the client has it."""
    headers = {"ETag": etag_of(seen), "Cache-Control": "private, no-cache"}
    if not seen.ended:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if waited is not None:
        headers[APPLIED] = f"wait={waited}"
    if matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(seen.body, status, headers, media_type="application/json")
