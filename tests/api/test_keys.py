"""API keys over HTTP: who gets in, for what, and for how long."""

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import Route

from api.app import create_app
from api.auth import OPEN
from api.callers import KnownKeys
from api.settings import Settings
from mixlab.ledger import Ledger
from mixlab.ledger.keys import Keys
from mixlab.ledger.records import JobKind, MixtureRecord, Queue, RunRole, Scope
from mixlab.mixture import Mixture

HERE = ("127.0.0.1", 40_000)
ELSEWHERE = ("203.0.113.7", 40_000)
EVERYTHING = (Scope.READ, Scope.WRITE)
QUICK = 0.1  # seconds that a key is remembered


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"key_cache_seconds": QUICK})


@pytest.fixture
def local(client: TestClient) -> TestClient:
    return client


@pytest.fixture
def as_key(client: TestClient, app: FastAPI, ledger: Ledger) -> Callable[..., TestClient]:
    """A client with a new key of those scopes; its id and token are attributes."""

    def made(*scopes: Scope, **options: Any) -> TestClient:
        key, token = ledger.keys.create("k", scopes or EVERYTHING, **options)
        time.sleep(QUICK)  # until it is known that there are keys
        made = TestClient(
            app, client=ELSEWHERE, raise_server_exceptions=False,
            headers={"Authorization": f"Bearer {token}"},
        )  # fmt: skip
        made.key_id, made.token = key.id, token  # type: ignore[attr-defined]
        return made

    return made


def walked(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Path and method of every route; fails for a kind of route that nobody looked at."""
    for route in routes:
        if isinstance(route, APIRoute | Route):
            path = prefix + re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
            yield from ((path, method) for method in route.methods or set())
        else:
            inner = route.original_router  # of `include_router`
            yield from walked(inner.routes, prefix + route.include_context.prefix)


def test_every_route_but_the_open_ones_needs_a_key(
    app: FastAPI, as_key: Callable[..., TestClient]
) -> None:
    as_key()
    stranger = TestClient(app, client=HERE, raise_server_exceptions=False)
    seen = set()
    for path, method in walked(app.routes):
        answer = stranger.request(method, re.sub(r"{\w+}", "job_1", path))
        if path in OPEN:
            assert answer.status_code in (200, 503), path
            continue
        seen.add(path)
        assert answer.status_code == 401, f"{method} {path}"
        assert answer.headers["www-authenticate"] == 'Bearer realm="mixlab"'
    assert set(app.openapi()["paths"]) <= seen | OPEN
    # What there isn't, and other methods, tell strangers nothing either.
    for method, path in (
        ("GET", "/nothing"),
        ("DELETE", "/jobs"),
        ("OPTIONS", "/jobs"),
        ("GET", "/"),
    ):
        assert stranger.request(method, path).status_code == 401


def test_the_open_routes_are_these() -> None:
    assert {"/livez", "/readyz", "/healthz", "/openapi.json", "/docs"} == OPEN


def test_the_document_says_where_a_key_is_needed(app: FastAPI) -> None:
    document = app.openapi()
    scheme = document["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            needed = path not in OPEN
            assert operation.get("security") == ([{"key": []}] if needed else None), path
            assert {"401", "403"} <= set(operation["responses"]) or not needed, path


def test_no_byte_of_a_strangers_body_is_read(app: FastAPI, as_key: Callable[..., Any]) -> None:
    as_key()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/corpora", "raw_path": b"/corpora", "query_string": b"", "root_path": "",
        "scheme": "http", "client": ELSEWHERE, "server": ("testserver", 80),
        "headers": [(b"host", b"testserver"), (b"content-type", b"application/json"),
                    (b"transfer-encoding", b"chunked")],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401


def test_what_is_no_valid_key_is_401(as_key: Callable[..., Any]) -> None:
    client = as_key()
    for header in (
        "", "Bearer", "Bearer ", "Basic bWxrOng=", "bearer mlk_1_2", "TOKEN", "Bearer TOKENx",
        "Bearer TOKEN, Bearer TOKEN", "Bearer \x00TOKEN", "Bearer " + "9" * 4000,
    ):  # fmt: skip
        text = header.replace("TOKEN", client.token).encode()
        answer = client.get("/jobs", headers=[(b"authorization", text)])
        assert answer.status_code == 401, header
        assert answer.headers["www-authenticate"].startswith('Bearer realm="mixlab"')
        assert answer.json()["type"] == "urn:mixlab:error:unauthorized"
        assert client.token[:60] not in answer.text


def test_a_key_in_the_url_opens_nothing(as_key: Callable[..., Any]) -> None:
    client = as_key()
    token = client.headers.pop("authorization").split()[1]
    assert client.get(f"/jobs?key={token}&access_token={token}").status_code == 401
    assert client.get("/jobs", auth=("mlk", token)).status_code == 401
    client.cookies.set("Authorization", token)
    assert client.get("/jobs").status_code == 401


def test_two_keys_at_once_are_none(as_key: Callable[..., Any]) -> None:
    client = as_key()
    twice = [("Authorization", f"Bearer {client.token}")] * 2
    client.headers.pop("authorization")
    assert client.get("/jobs", headers=twice).status_code == 401


def test_scopes(as_key: Callable[..., Any]) -> None:
    for scopes, reading, changing in (
        ((Scope.READ,), 200, 403), ((Scope.WRITE,), 403, 422), (EVERYTHING, 200, 422),
        ((Scope.ADMIN,), 200, 422),
    ):  # fmt: skip
        client = as_key(*scopes)
        read, change = client.get("/jobs"), client.post("/mixtures", json={})
        assert (read.status_code, change.status_code) == (reading, changing)
        for answer, scope in ((read, "read"), (change, "write")):
            if answer.status_code == 403:
                assert f'scope="{scope}"' in answer.headers["www-authenticate"]
                assert answer.json()["type"] == "urn:mixlab:error:forbidden"


def test_a_revoked_expired_or_rotated_key_ends_within_the_time_that_it_is_remembered(
    as_key: Callable[..., Any], ledger: Ledger
) -> None:
    clients = [as_key() for _ in range(2)]
    for client in clients:
        assert client.get("/jobs").status_code == 200
    ledger.keys.revoke(clients[0].key_id)
    _, token = ledger.keys.rotate(clients[1].key_id)
    time.sleep(QUICK)
    for client in clients:
        assert client.get("/jobs").status_code == 401
    again = clients[1].get("/jobs", headers={"Authorization": f"Bearer {token}"})
    assert again.status_code == 200


def test_polls_cost_no_look_up_each(
    as_key: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, looked = as_key(), []
    check = Keys.check

    def counted(self: Keys, token: str) -> Any:
        looked.append(time.monotonic())
        return check(self, token)

    monkeypatch.setattr(Keys, "check", counted)
    began, polls = time.monotonic(), 0
    while time.monotonic() < began + 3 * QUICK:
        assert client.get("/jobs/job_1").status_code == 404
        polls += 1
    assert len(looked) <= 4
    assert polls > len(looked)
    assert all(later - earlier >= QUICK * 0.9 for earlier, later in itertools.pairwise(looked))


def test_wrong_keys_fill_no_memory(as_key: Callable[..., Any], ledger: Ledger) -> None:
    client = as_key()
    known = KnownKeys(lambda: ledger, 5.0)

    async def guess() -> None:
        last = int(client.token[-2:], 16)
        for number in range(1, 21):
            wrong = f"{client.token[:-2]}{(last + number) % 256:02x}"
            assert await known.find(wrong) is None
        assert await known.find(client.token) is not None

    asyncio.run(guess())
    assert len(known._opened) == 1


def test_an_unknown_number_and_a_wrong_secret_take_the_same_time(
    as_key: Callable[..., Any], ledger: Ledger
) -> None:
    """The same query, of which neither finds a row; a median ratio of 1 within a fifth."""
    token = as_key().token
    number = token.split("_")[1]
    kinds = {"unknown": f"mlk_{'0' * 24}_{'1' * 64}", "wrong": f"mlk_{number}_{'1' * 64}"}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(250):
        for kind, guess in kinds.items():
            began = time.perf_counter()
            assert ledger.keys.check(guess) is None
            seconds[kind].append(time.perf_counter() - began)
    ratio = median(seconds["unknown"]) / median(seconds["wrong"])
    assert 0.8 < ratio < 1.25


class TestBeforeThereIsAKey:
    def test_this_machine_is_answered(self, local: TestClient) -> None:
        assert local.get("/jobs").status_code == 200

    def test_nobody_else_is(self, app: FastAPI, local: TestClient) -> None:
        addresses = ("203.0.113.7", "10.0.0.1", "fe80::1", "testclient", "::ffff:10.0.0.1")
        for client in (*((address, 1) for address in addresses), None):
            answer = TestClient(app, client=client).get("/jobs")
            assert answer.status_code == 403, client
            assert "mixlab keys create" in answer.json()["detail"]

    def test_nor_who_comes_through_a_proxy_from_who_knows_where(
        self, app: FastAPI, local: TestClient
    ) -> None:
        for headers in (
            {"X-Forwarded-For": "203.0.113.7"}, {"Forwarded": "for=127.0.0.1"},
            {"Via": "1.1 proxy"}, {"X-Real-IP": "127.0.0.1"},
        ):  # fmt: skip
            assert local.get("/jobs", headers=headers).status_code == 403

    def test_ipv6_loopback_is_this_machine(self, app: FastAPI, local: TestClient) -> None:
        for address in ("::1", "127.8.8.8", "::ffff:127.0.0.1"):
            assert TestClient(app, client=(address, 1)).get("/jobs").status_code == 200

    def test_a_key_that_does_not_open_is_refused_all_the_same(self, local: TestClient) -> None:
        wrong = {"Authorization": f"Bearer mlk_{'0' * 24}_{'0' * 64}"}
        assert local.get("/jobs", headers=wrong).status_code == 401

    def test_the_last_key_revoked_does_not_open_the_door(
        self, app: FastAPI, as_key: Callable[..., Any], ledger: Ledger
    ) -> None:
        ledger.keys.revoke(as_key().key_id)
        assert TestClient(app, client=HERE).get("/jobs").status_code == 401


def test_a_ledger_that_is_away_lets_nobody_in(settings: Settings) -> None:
    away = settings.model_copy(
        update={"database_url": type(settings.database_url)("postgresql://u:pw@127.0.0.1:1/x")}
    )
    with TestClient(create_app(away), client=HERE, raise_server_exceptions=False) as client:
        for headers in ({}, {"Authorization": f"Bearer mlk_{'0' * 24}_{'0' * 64}"}):
            answer = client.get("/jobs", headers=headers)
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:mixlab:error:ledger-unreachable"
            assert "pw" not in answer.text
        assert client.get("/livez").status_code == 200


def test_a_stream_ends_with_its_key(as_key: Callable[..., Any], ledger: Ledger) -> None:
    client = as_key()
    job = ledger.of(client.key_id).submit(JobKind.TRAIN, {}, queue=Queue.GPU)
    path = f"/jobs/{job.id}/events"
    began = time.monotonic()
    with client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines)
        ledger.keys.revoke(client.key_id)
        time.sleep(1.1)  # keys of open answers are looked at once a second at most
        ledger.request_pause(job.id)  # something to tell
        ledger.resume(job.id)
        rest = list(lines)
    assert time.monotonic() - began < 15
    assert "resumed" not in "".join(rest)


class TestOwners:
    """Another owner's things are not there: nobody learns even that there are any."""

    @pytest.fixture
    def things(
        self, as_key: Callable[..., Any], ledger: Ledger, corpus_body: dict[str, Any],
        fitted: Callable[..., MixtureRecord],
    ) -> tuple[Any, dict[str, str]]:  # fmt: skip
        owner = as_key()
        corpus = owner.post("/corpora", json=corpus_body).json()["id"]
        shares = dict.fromkeys(corpus_body["domains"], 1 / 3)
        answer = owner.post("/mixtures", json={"corpus_id": corpus, "proportions": shares})
        assert answer.status_code == 201, answer.text
        job = owner.post("/trainings", json={"corpus_id": corpus, "proportions": shares}).json()[
            "id"
        ]
        run = ledger.add_run(job, corpus, RunRole.FULL, shares, {"name": "tiny"}, 0, "x").id
        fit = fitted()
        mixture = ledger.of(owner.key_id).add_mixture(
            corpus, None, None, fit.proportions, fit.fit, fit.report
        )
        return owner, {
            "corpus_id": corpus, "mixture_id": mixture.id, "job_id": job, "training_id": run,
            "parent": job,
        }  # fmt: skip

    def test_in_every_route_another_owners_id_is_answered_as_an_unknown_one(
        self, app: FastAPI, as_key: Callable[..., Any], things: tuple[Any, dict[str, str]]
    ) -> None:
        owner, ids = things
        stranger, walked = as_key(), 0
        for path, operations in app.openapi()["paths"].items():
            for method in operations:
                named = re.findall(r"{(\w+)}", path)
                if not named:
                    continue
                theirs = path.format(**ids)
                unknown = path.format(**{name: f"{ids[name][:-4]}0000" for name in ids})
                answers = [
                    _told(stranger.request(method.upper(), place), place)
                    for place in (theirs, unknown)
                ]
                assert answers[0][0] == 404, f"{method} {path}: {answers[0]}"
                assert answers[0] == answers[1], f"{method} {path}"
                walked += 1
        assert walked >= 8
        # And all of them are there for who owns them.
        assert owner.get(f"/jobs/{ids['job_id']}").json()["state"] == "queued"

    def test_in_every_body_too(
        self, app: FastAPI, as_key: Callable[..., Any], things: tuple[Any, dict[str, str]]
    ) -> None:
        owner, ids = things
        stranger = as_key()
        corpus, mixture = {"corpus_id": ids["corpus_id"]}, {"mixture_id": ids["mixture_id"]}
        shares = {"proportions": dict.fromkeys(("code", "legal", "talk"), 1 / 3)}
        bodies = {
            "/mixtures/fit": [{**corpus, "budget_tokens": 10**6, "recipe": "proxy_tiny"}],
            "/mixtures": [corpus | shares],
            "/mixtures/solve": [mixture],
            "/mixtures/predict": [mixture],
            "/mixtures/design": [{**mixture, "count": 2}, {**corpus, "count": 2}],
            "/trainings": [mixture, corpus | shares],
        }
        assert set(bodies) == _paths_whose_bodies_name_things(app)
        for path, given in bodies.items():
            for body in given:
                mine, theirs = owner.post(path, json=body), stranger.post(path, json=body)
                assert mine.status_code < 300 or mine.status_code == 409, (path, mine.text)
                assert theirs.status_code == 404, f"{path}: {theirs.text}"

    def test_lists_hold_nothing_of_others(
        self, as_key: Callable[..., Any], things: tuple[Any, dict[str, str]]
    ) -> None:
        owner, ids = things
        stranger = as_key()
        for path in ("/corpora", "/mixtures", "/jobs", f"/mixtures?corpus_id={ids['corpus_id']}"):
            listed, mine = stranger.get(path).json(), owner.get(path).json()
            entries = next(value for value in listed.values() if isinstance(value, list))
            assert entries == [], path
            assert next(value for value in mine.values() if isinstance(value, list)), path
        assert stranger.get(f"/jobs?parent={ids['job_id']}").status_code == 404

    def test_an_admin_sees_everything_and_makes_its_own(
        self, as_key: Callable[..., Any], ledger: Ledger, things: tuple[Any, dict[str, str]],
        corpus_body: dict[str, Any],
    ) -> None:  # fmt: skip
        _, ids = things
        admin = as_key(Scope.ADMIN)
        assert admin.get(f"/corpora/{ids['corpus_id']}").status_code == 200
        assert admin.get(f"/trainings/{ids['training_id']}").status_code == 200
        assert admin.get("/jobs").json()["jobs"]
        made = admin.post("/corpora", json=corpus_body).json()["id"]
        assert ledger.corpus(made).owner == admin.key_id
        assert admin.post(f"/jobs/{ids['job_id']}/cancel").status_code in (200, 202)

    def test_what_was_made_before_keys_is_the_admins(
        self, local: TestClient, corpus_id: str, as_key: Callable[..., Any]
    ) -> None:
        assert as_key().get(f"/corpora/{corpus_id}").status_code == 404
        assert as_key(Scope.ADMIN).get(f"/corpora/{corpus_id}").status_code == 200


def _told(answer: Any, place: str) -> tuple[int, Any]:
    """Status and problem, without what must differ."""
    found = dict(answer.json())
    for name in ("request_id", "instance"):
        found.pop(name, None)
    text = json.dumps(found)
    for part in place.split("/"):
        text = text.replace(part, "ID") if "_" in part else text
    return answer.status_code, text


def _paths_whose_bodies_name_things(app: FastAPI) -> set[str]:
    document = app.openapi()
    found = set()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {})
            reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
            schema = document["components"]["schemas"].get(reference.rpartition("/")[2], {})
            if any(name.endswith("_id") for name in schema.get("properties", {})):
                found.add(path)
    return found


def test_a_key_may_have_so_many_unfinished_jobs(
    app: FastAPI, settings: Settings, as_key: Callable[..., Any], corpus_body: dict[str, Any]
) -> None:
    one, many = as_key(max_active_jobs=1), as_key()
    for client, most in ((one, 1), (many, 3)):
        app.state.resources.settings = settings.model_copy(update={"max_active_jobs": 3})
        corpus = client.post("/corpora", json=corpus_body).json()["id"]
        answers = [client.post(f"/corpora/{corpus}/entropy") for _ in range(most + 1)]
        assert [a.status_code for a in answers] == [202] * most + [429]
        assert answers[-1].json()["type"] == "urn:mixlab:error:quota-exceeded"
        assert int(answers[-1].headers["retry-after"]) > 0
        job = client.get("/jobs").json()["jobs"][0]["id"]
        assert client.post(f"/jobs/{job}/cancel").status_code == 200
        assert client.post(f"/corpora/{corpus}/entropy").status_code == 202


def test_mixtures_of_an_owner_stay_its_own_when_solved_again(
    as_key: Callable[..., Any], ledger: Ledger, fitted: Callable[..., MixtureRecord]
) -> None:
    client, fit = as_key(), fitted()
    own = ledger.of(client.key_id).add_mixture(
        None, None, None, Mixture.uniform(list(fit.proportions)).proportions, fit.fit, fit.report
    )
    solved = client.post("/mixtures/solve", json={"mixture_id": own.id})
    assert solved.status_code == 201, solved.text
    assert ledger.mixture(solved.json()["id"]).owner == client.key_id
    assert replace(own, owner=None) != own
