"""Corpora as clients register and see them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from api.values import MAX_DOMAINS, Body, Name, Seed, View
from mixlab.ledger.records import Corpus

Location = Annotated[str, Field(min_length=1, max_length=4096)]


class DomainBody(Body):
    """Where one domain's text lies."""

    paths: list[Location] = Field(
        min_length=1,
        max_length=10_000,
        description="Files or folders: JSONL (.gz, .zst), Parquet or plain text; absolute paths "
        "inside MIXLAB_DATA_ROOTS, or URLs of a scheme in MIXLAB_REMOTE_SCHEMES.",
    )
    text_field: str = Field("text", min_length=1, max_length=200)


class CorpusBody(Body):
    """Domains of text, and how they become tokens."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "my text",
                    "domains": {
                        "code": {"paths": ["/data/code"]},
                        "legal": {"paths": ["/data/legal.jsonl.gz"], "text_field": "body"},
                    },
                }
            ]
        }
    )

    name: Name
    domains: dict[Name, DomainBody] = Field(
        max_length=MAX_DOMAINS, description="By name, at least two; names are case-sensitive."
    )
    vocabulary: int = Field(
        2048, ge=257, le=1_000_000, description="Tokens of the byte-level BPE that is trained."
    )
    tokenizer_file: Location | None = Field(
        None, description="A tokenizer.json to use instead of training one."
    )
    validation_fraction: float = Field(
        0.05, gt=0, le=0.5, description="Share of documents, by hash, that no run trains on."
    )
    seed: Seed = 0


class CorpusView(View):
    """A corpus: what was registered, and what was measured of it."""

    id: str = Field(examples=["corpus_0199f2c4"])
    name: str
    spec: dict[str, Any] = Field(description="Domains and tokenizer options as registered.")
    tokens: dict[str, Any] | None = Field(
        description="Per domain: train_tokens, validation_tokens, documents, duplicates, ...; "
        "null until it is measured."
    )
    entropy: dict[str, Any] | None = Field(
        description="Per domain: shannon, joint and conditional entropy in nats; null until "
        "it is measured."
    )
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, corpus: Corpus) -> Self:
        """The view of a ledger's corpus."""
        url = f"/corpora/{corpus.id}"
        return cls(
            id=corpus.id,
            name=corpus.name,
            spec=dict(corpus.spec),
            tokens=dict(corpus.tokens) if corpus.tokens is not None else None,
            entropy=dict(corpus.entropy) if corpus.entropy is not None else None,
            created_at=corpus.created_at,
            links={"self": url, "entropy": f"{url}/entropy"},
        )


class CorpusPage(View):
    """Some corpora, newest first."""

    corpora: list[CorpusView]
    next_page_token: str = Field(description="Empty on the last page.")
