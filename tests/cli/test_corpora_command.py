import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import corpora


def test_list_knows_every_named_corpus_and_that_none_is_here(tmp_path: Path) -> None:
    result = CliRunner().invoke(corpora.app, ["list", "--folder", str(tmp_path), "--json"])
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert set(rows) == {"minipile", "minipile-small"}
    assert rows["minipile-small"]["fetched"] == []
    assert "dialogue" in rows["minipile-small"]["domains"]


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIXLAB_CORPORA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert corpora.default_folder() == Path("/cache/mixlab/corpora")
    monkeypatch.setenv("MIXLAB_CORPORA", "/elsewhere")
    assert corpora.default_folder() == Path("/elsewhere")
