"""Answer only to known Host headers, and to no other site's page; the rest get a problem document.

A page in a browser can point its own name at 127.0.0.1 and then talk to what
listens there (DNS rebinding); its requests carry that name as Host. Or it posts
to 127.0.0.1 across sites, which needs no permission where there is no body;
then its own name is the Origin, or Sec-Fetch-Site says so. Starlette's
TrustedHostMiddleware knows Host only, and answers in plain text.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import problem

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Of a page of this service, or of the address bar. Another port of localhost is `same-site`.
OWN_SITE = frozenset({"same-origin", "none"})


class AllowedHosts:
    """Refuses requests whose Host, or Origin of a change, is not in the list.

    `*.example.com` stands for subdomains, `*` for everything.
    """

    def __init__(self, app: ASGIApp, *, allowed: tuple[str, ...]) -> None:
        self._app = app
        self._allowed = tuple(host.lower() for host in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        refused = self._refused(scope) if scope["type"] == "http" else None
        if refused is None:
            await self._app(scope, receive, send)
            return
        refusal = problem(
            400,
            f"This {refused} header is not answered; MIXLAB_ALLOWED_HOSTS lists those that are.",
            slug=f"{refused.lower()}-not-allowed",
            title=f"The {refused} header is not an allowed one",
            headers={"Connection": "close"},  # nothing that follows it is read
        )
        await refusal(scope, receive, send)

    def _refused(self, scope: Scope) -> str | None:
        """The header that speaks against the request."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._knows(host_of(hosts[0])):
            return "Host"
        if scope["method"] in SAFE_METHODS:
            return None
        origins = headers.getlist("origin")
        known = all(self._knows(host_of(_authority(origin))) for origin in origins)
        return None if known and headers.get("sec-fetch-site", "none") in OWN_SITE else "Origin"

    def _knows(self, host: str) -> bool:
        return any(
            allowed in ("*", host) or (allowed.startswith("*.") and host.endswith(allowed[1:]))
            for allowed in self._allowed
        )


def host_of(header: str) -> str:
    """The host of a Host header, without its port; IPv6 keeps its brackets."""
    host, colon, port = header.rpartition(":")
    return (host if colon and port.isdecimal() else header).lower()


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as an unclosed bracket
        return ""
