"""Pages of a list: an opaque token that holds where the last page ended, and for which filters.

As in AIP-158: page_size 0 is the default, too large a size is cut down, and an
empty next_page_token is the only sign of the end.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import Query
from fastapi.exceptions import RequestValidationError

from api.values import ID_PATTERN

DEFAULT_SIZE = 50
MAX_SIZE = 200

PageSize = Annotated[
    int, Query(ge=0, le=2**31, description=f"0 means {DEFAULT_SIZE}; at most {MAX_SIZE} come.")
]
PageToken = Annotated[
    str, Query(max_length=1000, description="The `next_page_token` of the page before.")
]


def size_of(page_size: int) -> int:
    """How many entries a page gets."""
    return min(page_size or DEFAULT_SIZE, MAX_SIZE)


def after_of(token: str, filters: Mapping[str, str | None]) -> str | None:
    """The id that the page before ended with. Raises a validation error for a foreign token."""
    if not token:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(token.encode()))
        after, same = str(found["after"]), found["filters"] == dict(filters)
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
        after, same = "", False
    if not re.fullmatch(ID_PATTERN, after):
        raise _refused("is not one that this list gave; leave it out to start again")
    if not same:
        raise _refused("belongs to a list with other filters; leave it out to start again")
    return after


def token_for(ids: Sequence[str], size: int, filters: Mapping[str, str | None]) -> str:
    """The token for what follows these ids, of which one more than a page was asked for."""
    if len(ids) <= size:
        return ""
    text = json.dumps({"after": ids[size - 1], "filters": dict(filters)})
    return base64.urlsafe_b64encode(text.encode()).decode()


def _refused(reason: str) -> RequestValidationError:
    return RequestValidationError(
        [{"loc": ("query", "page_token"), "msg": f"This page_token {reason}.", "type": "token"}]
    )
