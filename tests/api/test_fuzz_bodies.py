"""Whatever a client sends, the answer is never a 5xx, and an error is always a problem document."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from api.app import create_app
from api.settings import Settings
from mixlab.fitting import fit
from mixlab.laws import BIMIX
from mixlab.ledger.records import JobKind, Queue, RunRole
from mixlab.recipes import target_small
from mixlab.tables import from_rows, write_table

ROWS = [
    {
        "run": f"r{share}", "step": step, "tokens": 64 * step,
        "mixture.a": share, "mixture.b": 1 - share, "loss.a": 4 - share, "loss.b": 3 + share,
    }
    for share in (0.125, 0.25, 0.5, 0.75)
    for step in (100, 200, 300)
]  # fmt: skip
SHARES = {"a": 0.25, "b": 0.75}
DOMAINS = {"a": {"paths": ["PATH"]}, "b": {"paths": ["PATH"], "text_field": "t"}}
DESIGN = {"count": 9, "floor": 0.1, "seed": 1, "repeated_seeds": 0}
BOUNDS = {"lower": {"a": 0.1}, "upper": {"b": 0.8}, "max_epochs": 2.0}
LIMITS = {
    "groups": {"both": {"domains": ["a", "b"], "lower": 0.5}}, "max_epochs": None,
    "linear": [{"coefficients": {"a": 1, "b": -2}, "upper": 0.9, "name": "enough"}],
    "near": {"mixture": SHARES, "kl_nats": 0.5},
}  # fmt: skip
# Requests that succeed; each example spoils a few places of one.
VALID: list[tuple[str, dict[str, Any]]] = [
    ("/corpora", {"name": "n", "domains": DOMAINS, "vocabulary": 500, "tokenizer_file": "PATH",
                  "validation_fraction": 0.1, "seed": 1}),
    ("/corpora", {"name": "n", "domains": DOMAINS, "compress": {
        "corpus_id": "COUNTED", "vocabulary": 300, "proportions": SHARES}}),
    ("/mixtures", {"corpus_id": "CORPUS", "proportions": SHARES}),
    ("/mixtures/fit", {"corpus_id": "CORPUS", "budget_tokens": 10**6, "design": DESIGN,
                       "recipe": "proxy_tiny", "law": "bimix", "constraints": BOUNDS,
                       "objective": {"weights": {"a": 1, "b": 2}}, "tokens_available": None}),
    ("/mixtures/fit", {"observations": ROWS, "budget_tokens": 10**6, "tokens_per_step": 64,
                       "tokens_available": {"a": 10**7, "b": 10**7}, "constraints": BOUNDS}),
    ("/mixtures/solve", {"mixture_id": "FITTED", "budget_tokens": 10**6, "constraints": BOUNDS,
                         "objective": {"weights": {"a": 1.0}}, "tokens_available": {"b": 10**7}}),
    ("/mixtures/solve", {"mixture_id": "FITTED", "params": 1e6, "constraints": LIMITS,
                         "objective": {"kind": "excess", "reference_mixture": SHARES}}),
    ("/mixtures/predict", {"mixture_id": "FITTED", "proportions": SHARES, "params": 1e6,
                           "budget_tokens": 10**6}),
    ("/mixtures/predict", {"mixture_id": "FITTED", "step": 500.0}),
    ("/mixtures/design", {"domains": ["a", "b"], "count": 3, "constraints": LIMITS, "seed": 1,
                          "budget_tokens": 10**6, "tokens_available": {"a": 10**7}}),
    ("/mixtures/design", {"mixture_id": "FITTED", "count": 2}),
    ("/trainings", {"mixture_id": "MIXTURE", "recipe": "target_small", "seed": 1, "label": "x"}),
    ("/trainings", {"corpus_id": "CORPUS", "proportions": SHARES, "steps": 5}),
    ("/trainings", {"corpus_id": "CORPUS", "schedule": {"stages": [
        {"proportions": SHARES, "tokens": 10**6}, {"proportions": SHARES, "ramp_tokens": 5}]}}),
    ("/trainings", {"mixture_id": "MIXTURE", "growth": {"factor": 2, "tokens": 10**5}, "shape": {
        "layers": 4, "width": 96, "heads": 6, "kv_heads": 3, "ffn_width": 50, "tied_head": True}}),
    ("/trainings", {"mixture_id": "MIXTURE", "rounds": {
        "count": 3, "share": 0.5, "unit": "batch", "keep_proportions": False}}),
    ("/trainings", {"mixture_id": "MIXTURE", "shape": {"layers": 2}, "inherit": {
        "training_id": "DONOR", "importance": "l1", "sequences": 8}}),
]  # fmt: skip
NAMES = ["a", "b", "A", "", " ", "\x00", "\ud800", "../x", "mixture.a", "loss.c", "step", "lower"]

numbers = (
    st.sampled_from([0, 1, 5, 100, 10**6, 10**18, 10**30, 0.0, 0.25, 1.0, 1e-308, 1e308])
    | st.integers()
    | st.floats()
    | st.floats(0, 1)
)
words = st.sampled_from(
    [*NAMES, "CORPUS", "MIXTURE", "mix_1", "PATH", "/etc/passwd", "tinyllama_1b"]
) | st.text(max_size=8)
leaves = st.none() | st.booleans() | numbers | words
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)


def spoilt(draw: st.DrawFn, node: Any) -> Any:
    """The node with one value, somewhere in it, replaced, removed or added."""
    if draw(st.integers(0, 19)) == 0:
        return draw(values)
    if isinstance(node, dict) and node:
        name = draw(st.sampled_from(sorted(node)))
        act = draw(st.integers(0, 19))
        if act == 0:
            return {key: value for key, value in node.items() if key != name}
        if act == 1:
            return {**node, draw(st.sampled_from(NAMES)): draw(values)}
        return {**node, name: spoilt(draw, node[name])}
    if isinstance(node, list) and node:
        index = draw(st.integers(0, len(node) - 1))
        return [*node[:index], spoilt(draw, node[index]), *node[index + 1 :]]
    return draw(words if isinstance(node, str) else numbers)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Any]:
    path, body = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(0, 3))):
        body = spoilt(draw, body)
    return path, body


Running = tuple[TestClient, dict[str, str]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("fuzz")
    text = folder / "a.txt"
    text.write_text("text")
    settings_ = Settings(
        home=folder / "home",
        broker_url="redis://127.0.0.1:1/0",
        data_roots=[folder],
        allowed_hosts=["testserver"],
    )
    app = create_app(settings_)
    with TestClient(app, client=("127.0.0.1", 1), raise_server_exceptions=False) as client:
        domains = {name: {"paths": [str(text)]} for name in ("a", "b")}
        corpus, counted = (
            client.post("/corpora", json={"name": "n", "domains": domains}).json()["id"]
            for _ in range(2)
        )
        given_ = {"corpus_id": corpus, "proportions": SHARES}
        mixture = client.post("/mixtures", json=given_).json()["id"]
        fitted = fit(BIMIX, from_rows(ROWS)).to_dict()
        problem = {
            "objective": {"weights": None}, "constraints": {}, "budget_tokens": 10**6,
            "tokens_per_step": 64, "tokens_available": None,
            "observations_file": str(folder / "home" / "seen.csv"),
        }  # fmt: skip
        write_table(from_rows(ROWS), folder / "home" / "seen.csv")
        ledger = app.state.resources.ledger()
        solved = ledger.add_mixture(None, None, None, SHARES, fitted, problem).id
        ledger.record_tokens(counted, {name: {"train_tokens": 10**6} for name in SHARES})
        job = ledger.submit(JobKind.TRAIN, {}, queue=Queue.GPU)
        recipe = target_small().to_dict()
        donor = ledger.add_run(job.id, corpus, RunRole.FULL, SHARES, recipe, 0, "full")
        ledger.finish_run(donor.id, [], 1.0)
        settings_.run_folder(donor.id).mkdir(parents=True)
        settings_.run_weights(donor.id).touch()
        places = {
            "CORPUS": corpus, "COUNTED": counted, "MIXTURE": mixture, "FITTED": solved,
            "DONOR": donor.id, "PATH": str(text),
        }  # fmt: skip
        yield client, places


def post(running: Running, path: str, body: Any) -> Any:
    client, places = running
    content = json.dumps(body)
    for word, meant in places.items():
        content = content.replace(f'"{word}"', f'"{meant}"')
    return client.post(path, content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize(("path", "body"), VALID)
def test_what_the_fuzz_starts_from_is_accepted(
    running: Running, path: str, body: dict[str, Any]
) -> None:
    assert post(running, path, body).status_code in (200, 201, 202)


@settings(max_examples=400, deadline=None)
@given(request=requests())
def test_no_body_makes_the_service_fail(running: Running, request: tuple[str, Any]) -> None:
    answer = post(running, *request)
    assert answer.status_code < 500, (request, answer.text)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]
    elif answer.status_code != 200:
        assert running[0].get(answer.headers["Location"]).status_code == 200


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60), path=st.sampled_from(sorted({path for path, _ in VALID})))
def test_no_bytes_make_the_service_fail(running: Running, content: bytes, path: str) -> None:
    client = running[0]
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@settings(max_examples=100, deadline=None)
@given(
    query=st.dictionaries(
        st.sampled_from(["state", "kind", "parent", "page_size", "page_token"]),
        st.text(max_size=12) | st.sampled_from(["queued", "train", "job_1", "7", "e30="]),
    )
)
def test_no_query_makes_the_service_fail(running: Running, query: dict[str, str]) -> None:
    assert running[0].get("/jobs", params=query).status_code in (200, 404, 422)
