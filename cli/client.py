"""A small client of the service, for the command line and the demo.

It speaks JSON, raises what a problem document says, and waits for jobs as the
service asks it to (Retry-After).
"""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from cli.errors import CommandFailed

DEFAULT_URL = "http://127.0.0.1:8712"
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
TIMEOUT_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 60.0

OnProgress = Callable[[Mapping[str, Any]], None]


class ServiceError(CommandFailed):
    """What the service answered instead of what was asked for, or that it didn't answer."""

    def __init__(self, message: str, *, status: int | None = None, slug: str = "") -> None:
        super().__init__(message)
        self.status = status  # None where there was no answer
        self.slug = slug  # such as "unknown-corpus"


class Client:
    """The service at a URL. Give `transport` to speak to an application in this process."""

    def __init__(
        self, base_url: str = DEFAULT_URL, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        # No proxy from the environment: the service is on this machine or in its network.
        self._http = httpx.Client(
            base_url=self.base_url, timeout=TIMEOUT_SECONDS, transport=transport, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: str | int | None) -> dict[str, Any]:
        """GET a path's JSON. Raises ServiceError."""
        given = {name: value for name, value in query.items() if value is not None}
        return _json(self._send("GET", path, params=given or None))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """POST JSON and get JSON. Raises ServiceError."""
        return _json(self._send("POST", path, json=body))

    def wait(self, job_id: str, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Follow a job to its end and return it, however it ended.

        A state that this client doesn't know counts as not ended. `on_progress` gets each
        answer. Raises ServiceError where the service stops answering.
        """
        while True:
            answer = self._send("GET", f"/jobs/{job_id}")
            job = _json(answer)
            if on_progress is not None:
                on_progress(job)
            if job["state"] in TERMINAL:
                return job
            time.sleep(_pause(answer))

    def result(self, job_id: str, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Follow a job and return what it made. Raises ServiceError where it did not succeed."""
        job = self.wait(job_id, on_progress)
        if job["state"] != "succeeded":
            error = job.get("error") or {}
            reason = error.get("detail") or f"it was {job['state']}"
            slug = str(error.get("type", "")).rpartition(":")[2]
            raise ServiceError(f"Job {job_id} ({job['kind']}) did not succeed: {reason}", slug=slug)
        return self.get(str(job["result"]["href"]))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.InvalidURL as error:
            raise ServiceError(f"{self.base_url}{path} is no URL: {error}") from error
        except httpx.HTTPError as error:
            raise ServiceError(
                f"{self.base_url} doesn't answer ({type(error).__name__}: {error}); "
                "`mixlab up` starts the service, --url or MIXLAB_URL says where it is."
            ) from error
        if answer.is_success:
            return answer
        raise _problem(answer)


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ServiceError(
            f"{answer.request.url} didn't answer with JSON; is it mixlab's service?",
            status=answer.status_code,
        )
    return found


def _problem(answer: httpx.Response) -> ServiceError:
    try:
        found = answer.json()
        message = str(found["detail"])
        slug = str(found["type"]).rpartition(":")[2]
    except (ValueError, KeyError, TypeError):
        message, slug = f"{answer.request.url} answered {answer.status_code}", ""
    return ServiceError(message, status=answer.status_code, slug=slug)


def _pause(answer: httpx.Response) -> float:
    asked = answer.headers.get("Retry-After", "")
    seconds = float(asked) if asked.isdecimal() else 1.0
    return min(max(seconds, 0.1), LONGEST_PAUSE_SECONDS)
