"""A small client of the service, for the command line and the demo.

It speaks JSON, raises what a problem document says, and follows jobs through
their event streams, or by polling where no stream can be had. Each POST has an
Idempotency-Key, so one whose answer was lost is sent again and makes nothing
twice. It waits as the service asks it to (Retry-After).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from cli.errors import CommandFailed
from cli.frames import Frame, frames

DEFAULT_URL = "http://127.0.0.1:8712"
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
TIMEOUT_SECONDS = 60.0
SILENCE_SECONDS = 45.0  # of a stream, which shows every 15 s that it lives
LONGEST_PAUSE_SECONDS = 60.0
PATIENCE_SECONDS = 60.0  # with a service that is too busy, or being restarted
LATER = frozenset({409, 429, 503})  # where they come with Retry-After

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
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        # No proxy from the environment: the service is on this machine or in its network.
        self._http = httpx.Client(
            base_url=self.base_url,
            headers=_authorization(api_key),
            timeout=TIMEOUT_SECONDS,
            transport=transport,
            trust_env=False,
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
        once = {"Idempotency-Key": str(uuid4())}
        return _json(self._send("POST", path, json=body, headers=once))

    def wait(self, job_id: str, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Follow a job to its end and return it, however it ended.

        A state that this client doesn't know counts as not ended. `on_progress` gets each
        answer. Raises ServiceError where the service stops answering for a minute.
        """
        job: dict[str, Any] = {}
        for job in self._shown(job_id):
            if on_progress is not None:
                on_progress(job)
            if job["state"] in TERMINAL:
                break
        return job

    def result(self, job_id: str, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Follow a job and return what it made. Raises ServiceError where it did not succeed."""
        job = self.wait(job_id, on_progress)
        if job["state"] != "succeeded":
            error = job.get("error") or {}
            reason = error.get("detail") or f"it was {job['state']}"
            slug = str(error.get("type", "")).rpartition(":")[2]
            raise ServiceError(f"Job {job_id} ({job['kind']}) did not succeed: {reason}", slug=slug)
        return self.get(str(job["result"]["href"]))

    def events(self, job_id: str, *, follow: bool = False) -> Iterator[dict[str, Any]]:
        """What has happened to a job; with `follow`, what happens until its end too."""
        after, more = 0, True
        while more:
            page = self.get(f"/jobs/{job_id}/events", after=after)
            yield from page["events"]
            after, more = page["next_after"], page["more"]
        while follow:
            for frame in self._stream(job_id, after):
                if frame.id:
                    after = int(frame.id)
                    yield frame.json()
            # There was no stream, or it broke off, or the job has ended.
            ended = self.get(f"/jobs/{job_id}")["state"] in TERMINAL
            page = self.get(f"/jobs/{job_id}/events", after=after)
            yield from page["events"]
            after = page["next_after"]
            if ended and not page["more"]:
                return
            time.sleep(1.0)

    def _shown(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job each time that it gets on."""
        while True:
            for frame in self._stream(job_id):
                if frame.event == "job":
                    yield frame.json()
            # There was no stream, or it broke off.
            answer = self._patiently(f"/jobs/{job_id}")
            yield _json(answer)
            time.sleep(_pause(answer))

    def _stream(self, job_id: str, after: int = 0) -> Iterator[Frame]:
        """The frames of a job's event stream until it ends or breaks; none where there is none."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=SILENCE_SECONDS)
        path = f"/jobs/{job_id}/events"
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as answer:
                kind = answer.headers.get("content-type", "").partition(";")[0]
                if answer.status_code == 200 and kind == "text/event-stream":
                    yield from frames(answer.iter_lines())
        except (httpx.HTTPError, httpx.InvalidURL):
            return  # polling tells what is the matter

    def _patiently(self, path: str) -> httpx.Response:
        """GET, again and again while the service does not answer, for a minute."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._send("GET", path)
            except ServiceError as error:
                if error.status is not None or time.monotonic() > deadline:
                    raise
            time.sleep(1.0)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self._answer(method, path, **options)
            if answer.is_success:
                return answer
            later = answer.status_code in LATER and "Retry-After" in answer.headers
            if not later or time.monotonic() + _pause(answer) > deadline:
                raise _problem(answer)
            time.sleep(_pause(answer))

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.InvalidURL as error:
            raise ServiceError(f"{self.base_url}{path} is no URL: {error}") from error
        except httpx.HTTPError as error:
            raise ServiceError(
                f"{self.base_url} doesn't answer ({type(error).__name__}: {error}); "
                "`mixlab up` starts the service, --url or MIXLAB_URL says where it is."
            ) from error


def _authorization(api_key: str | None) -> dict[str, str]:
    """The header of an API key. Raises CommandFailed for what can't be one."""
    if not api_key:
        return {}
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise CommandFailed("The API key has characters that none has; it looks like mlk_...")
    return {"Authorization": f"Bearer {api_key}"}


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
