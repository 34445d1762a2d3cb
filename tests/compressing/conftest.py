"""A corpus of real text in two domains, with a tokenizer of its own."""

import json
from pathlib import Path

import pytest

from mixlab.corpora.shards import TokenisedCorpus
from mixlab.corpora.tokenising import DomainSource, tokenise
from tests.compressing.makers import LINES, WORDS

DOMAINS = {"prose": [LINES[0], LINES[2], LINES[3], WORDS], "code": [LINES[1], LINES[5]]}


def write_sources(folder: Path) -> list[DomainSource]:
    """40 documents a domain, each with a number of its own."""
    found = []
    for name, lines in DOMAINS.items():
        texts = [f"{i} {lines[i % len(lines)]} {i * 7919}" for i in range(40)]
        file = folder / f"{name}.jsonl"
        file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
        found.append(DomainSource(name, (str(file),)))
    return found


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[DomainSource]:
    return write_sources(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def spoken(
    tmp_path_factory: pytest.TempPathFactory, sources: list[DomainSource]
) -> TokenisedCorpus:
    """The corpus, of 400 tokens."""
    folder = tmp_path_factory.mktemp("corpus")
    return tokenise(
        sources, folder, vocabulary=400, validation_fraction=0.2, shard_tokens=300, seed=1
    )
