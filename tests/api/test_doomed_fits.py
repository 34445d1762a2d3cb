"""Fits that can't succeed whatever a worker does are refused before there is a job."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

Rows = list[dict[str, Any]]


def refused(client: TestClient, **body: Any) -> str:
    """The detail of the refusal; asserts that it is one and that nothing was queued."""
    answer = client.post("/mixtures/fit", json={"budget_tokens": 10**9, **body})
    assert answer.status_code == 422, answer.text
    assert client.get("/jobs").json()["jobs"] == []
    return str(answer.json()["detail"])


@pytest.mark.parametrize("law", ["auto", "bimix"])
def test_a_table_without_a_measured_loss(
    client: TestClient, observation_rows: Rows, law: str
) -> None:
    rows = [
        {name: None if name.startswith("loss.") else cell for name, cell in row.items()}
        for row in observation_rows
    ]
    assert "loss" in refused(client, observations=rows, law=law)


@pytest.mark.parametrize("replicates", [0, 1])
def test_a_risk_without_refits(client: TestClient, observation_rows: Rows, replicates: int) -> None:
    told = refused(
        client, observations=observation_rows, replicates=replicates, objective={"risk": 0.5}
    )
    assert f"replicates is {replicates}" in told


def test_a_law_that_needs_what_the_table_lacks(client: TestClient, observation_rows: Rows) -> None:
    sized = [{**row, "params": 1e6} for row in observation_rows]
    assert "params" in refused(client, observations=observation_rows, law="chinchilla")
    assert "unique_tokens" in refused(client, observations=sized, law="data_constrained")
