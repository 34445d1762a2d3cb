"""What the first who asks for a fit would otherwise wait for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FIRST_ASKED = """
import json, sys
from pathlib import Path
from fastapi.testclient import TestClient
from api import warming
from api.app import create_app
from api.settings import Settings

rows, home = json.load(sys.stdin), Path(sys.argv[1])
settings = Settings(home=home, broker_url="redis://127.0.0.1:1/0", allowed_hosts=["testserver"])
with TestClient(create_app(settings), client=("127.0.0.1", 50000)) as client:
    client.get("/jobs").raise_for_status()
    warming.begin().join()
    before = set(sys.modules)
    asked = {"observations": rows, "budget_tokens": 10**9}
    client.post("/mixtures/fit", json=asked).raise_for_status()
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported_by_the_first_fit(rows: list[dict[str, Any]], home: str) -> set[str]:
    """Modules that the first fit imports in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_ASKED, home],
        input=json.dumps(rows), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout))


def test_the_first_fit_finds_everything_imported(
    observation_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = imported_by_the_first_fit(observation_rows, str(tmp_path))
    assert not {name.partition(".")[0] for name in found} & {"mixlab", "numpy", "scipy", "redis"}
