"""The real service under uvicorn on a free port, in a thread of this process."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from api.app import create_app
from api.settings import Settings
from mixlab.ledger import Ledger
from tests.training.conftest import write_small_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenised corpus."""
    found = tmp_path_factory.mktemp("train")
    write_small_corpus(found / "corpus")
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[str]:
    settings = Settings(home=home, broker_url="redis://127.0.0.1:1/0", data_roots=[home])
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def ledger(service: str, home: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{home / 'ledger.sqlite'}")
    yield opened
    opened.close()
