"""Job `measure_corpus`: tokenise a corpus into shards, then measure each domain's entropies.

A measured corpus is a snapshot: measuring it again changes nothing, so the
runs that were trained on it stay comparable. Changed text is a new corpus.
A worker that dies half-way leaves finished shards, which the next one skips.
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlab.corpora.reading.paths import PathPolicy
from mixlab.corpora.shards import Shard, TokenisedCorpus, write_atomically
from mixlab.corpora.tokenising import DomainSource, tokenise
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.entropy.counts import PairCounts, count_blocks
from mixlab.entropy.measures import EntropyMeasures, measures
from mixlab.errors import DomainTooSmall, MixlabError
from mixlab.ledger.records import Corpus
from workers.jobs.context import JobContext

JACKKNIFE_BLOCKS = 20  # at least, for a standard error that is itself steady
TOKENISING_SHARE = 0.85  # of the job's time, measured on the demo's corpus


def run(context: JobContext) -> Mapping[str, Any]:
    """Tokenise and measure what is not measured yet."""
    corpus_id = str(context.job.payload["corpus_id"])
    folder = context.settings.corpus_folder(corpus_id)
    with _only_one(folder):
        corpus = context.ledger.corpus(corpus_id)
        if corpus.tokens is None:
            tokenised = _tokenise(context, corpus, folder)
            context.ledger.record_tokens(corpus_id, tokenised.summary())
        if corpus.entropy is None:
            entropies = _measure(context, TokenisedCorpus.open(folder))
            context.ledger.record_entropy(corpus_id, entropies)
    return {"href": f"/corpora/{corpus_id}"}


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keep two jobs from tokenising the same corpus at once; the lock dies with its holder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tokenise(context: JobContext, corpus: Corpus, folder: Path) -> TokenisedCorpus:
    spec = corpus.spec
    policy = PathPolicy(
        tuple(context.settings.data_roots), tuple(context.settings.remote_schemes)
    )  # fmt: skip
    return tokenise(
        [
            DomainSource(name, tuple(domain["paths"]), domain.get("text_field") or "text")
            for name, domain in spec["domains"].items()
        ],
        folder,
        vocabulary=int(spec.get("vocabulary") or 2048),
        tokenizer_file=_given_tokenizer(spec.get("tokenizer_file"), policy, folder),
        validation_fraction=float(spec.get("validation_fraction") or 0.05),
        seed=int(spec.get("seed") or 0),
        limits=context.settings.read_limits,
        policy=policy,
        progress=lambda fraction: context.progress("tokenise", TOKENISING_SHARE * fraction),
    )


def _given_tokenizer(location: str | None, policy: PathPolicy, folder: Path) -> Path | None:
    """A copy of the given tokenizer, read as text is: through no link, from no other place."""
    if not location:
        return None
    copy = folder / "tokenizer.given.json"
    with policy.open_file(location) as given:
        write_atomically(copy, lambda path: path.write_bytes(given.read()))
    try:
        load_tokenizer(copy)
    except MixlabError as error:  # whose file it is, not where its copy lies
        raise type(error)(str(error).replace(str(copy), location)) from error
    return copy


def _measure(context: JobContext, corpus: TokenisedCorpus) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for done, domain in enumerate(corpus.domains):
        fraction = TOKENISING_SHARE + (1 - TOKENISING_SHARE) * done / len(corpus.domains)
        context.progress("entropy", fraction)
        try:
            found[domain] = domain_entropy(corpus, domain).to_dict()
        except DomainTooSmall as error:
            raise DomainTooSmall(f"Domain {domain!r}: {error}") from error
    return found


def domain_entropy(corpus: TokenisedCorpus, domain: str) -> EntropyMeasures:
    """Entropies of a domain's training text, with a jackknife over blocks of its shards."""
    return measures(_Blocks(corpus, domain))


@dataclass(frozen=True)
class _Blocks:
    """The counts of a domain's blocks, made anew each time they are asked for.

    Counting twice takes less time than tokenising took, and memory holds the counts of the
    whole domain and of one block, instead of twenty.
    """

    corpus: TokenisedCorpus
    domain: str

    def __iter__(self) -> Iterator[PairCounts]:
        shards = self.corpus.shards(self.domain, "train")
        per_shard = -(-JACKKNIFE_BLOCKS // len(shards))
        if per_shard > 1:
            return (block for shard in shards for block in self._counted(shard, per_shard))
        # Twenty blocks of many shards, not as many as shards: each is left out by one search.
        groups = (shards[first::JACKKNIFE_BLOCKS] for first in range(JACKKNIFE_BLOCKS))
        return (
            PairCounts.total(block for shard in group for block in self._counted(shard, 1))
            for group in groups
        )

    def _counted(self, shard: Shard, blocks: int) -> list[PairCounts]:
        end_of_text_id = self.corpus.end_of_text_id
        return count_blocks(shard.tokens(), shard.starts(), end_of_text_id, blocks=blocks)
