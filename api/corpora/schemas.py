"""Corpora as clients register and see them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from api.values import MAX_DOMAINS, Body, Identifier, Name, Seed, View
from mixlab.ledger.records import Corpus

Location = Annotated[str, Field(min_length=1, max_length=4096)]
Vocabulary = Annotated[int, Field(ge=257, le=1_000_000)]  # 256 bytes and the end of text at least


class DomainBody(Body):
    """Where one domain's text lies."""

    paths: list[Location] = Field(
        min_length=1,
        max_length=10_000,
        description="Files or folders: JSONL (.gz, .zst), Parquet or plain text; absolute paths "
        "inside MIXLAB_DATA_ROOTS, or URLs of a scheme in MIXLAB_REMOTE_SCHEMES.",
    )
    text_field: str = Field("text", min_length=1, max_length=200)


class CompressBody(Body):
    """The tokenizer of a measured corpus, of which the tokens stay that a mixture needs most."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"corpus_id": "corpus_0199f2c4", "vocabulary": 1024, "mixture_id": "mix_0199f2c4"}
            ]
        }
    )

    corpus_id: Identifier
    vocabulary: Vocabulary = Field(description="Tokens that stay, special ones included.")
    mixture_id: Identifier | None = None
    proportions: dict[Name, float] | None = Field(
        None,
        max_length=MAX_DOMAINS,
        description="Of that corpus's domains, instead of a mixture's id; sum to 1.",
    )


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
                },
                {
                    "name": "my text in fewer tokens",
                    "domains": {
                        "code": {"paths": ["/data/code"]},
                        "legal": {"paths": ["/data/legal.jsonl.gz"], "text_field": "body"},
                    },
                    "compress": {
                        "corpus_id": "corpus_0199f2c4",
                        "vocabulary": 1024,
                        "proportions": {"code": 0.4, "legal": 0.6},
                    },
                },
            ]
        }
    )

    name: Name
    domains: dict[Name, DomainBody] = Field(
        max_length=MAX_DOMAINS, description="By name, at least two; names are case-sensitive."
    )
    vocabulary: Vocabulary = Field(
        2048, description="Tokens of the byte-level BPE that is trained."
    )
    tokenizer_file: Location | None = Field(
        None, description="A tokenizer.json to use instead of training one."
    )
    compress: CompressBody | None = Field(
        None, description="Another corpus's tokenizer, made smaller, instead of training one."
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
