"""Answer only to known Host headers; the rest get a problem document.

A page in a browser can point its own name at 127.0.0.1 and then talk to what
listens there (DNS rebinding); its requests carry that name, and are refused.
Starlette's TrustedHostMiddleware does the same, but answers in plain text.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import problem


class AllowedHosts:
    """Refuses requests whose Host is not in the list; `*.example.com` stands for subdomains."""

    def __init__(self, app: ASGIApp, *, allowed: tuple[str, ...]) -> None:
        self._app = app
        self._allowed = tuple(host.lower() for host in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or self._knows(host_of(Headers(scope=scope).get("host", ""))):
            await self._app(scope, receive, send)
            return
        refusal = problem(
            400,
            "This Host header is not answered; MIXLAB_ALLOWED_HOSTS lists those that are.",
            slug="host-not-allowed",
            title="The Host header is not an allowed one",
        )
        await refusal(scope, receive, send)

    def _knows(self, host: str) -> bool:
        return any(
            allowed in ("*", host) or (allowed.startswith("*.") and host.endswith(allowed[1:]))
            for allowed in self._allowed
        )


def host_of(header: str) -> str:
    """The host of a Host header, without its port; IPv6 keeps its brackets."""
    host, colon, port = header.rpartition(":")
    return (host if colon and port.isdecimal() else header).lower()
