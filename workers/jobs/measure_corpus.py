"""Job `measure_corpus`: tokenise a corpus into shards, then measure each domain's entropies.

A measured corpus is a snapshot: measuring it again changes nothing, so the
runs that were trained on it stay comparable. Changed text is a new corpus. Where
its shards were deleted, or lost with the home folder, the same text makes them again.
A worker that dies half-way leaves finished shards and the entropies of finished
domains, which the next one skips.
A corpus may ask for another one's tokenizer, compressed, which is made first.
Where the service has GPUs a child job counts the pairs on one of them. Text is read
within bounds (bounds.py), and from remote places through a guard (network.py).
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from mixlab.corpora.files import file_sha256, write_atomically, write_json
from mixlab.corpora.reading.network import guard
from mixlab.corpora.reading.paths import PathPolicy
from mixlab.corpora.reading.readers import stored_bytes
from mixlab.corpora.shards import MANIFEST, Shard, TokenisedCorpus
from mixlab.corpora.tokenising import DomainSource, tokenise
from mixlab.corpora.tokenizer import load_tokenizer
from mixlab.entropy.counts import Counts, PairCounts, Tokens, count_blocks
from mixlab.entropy.measures import EntropyMeasures, measures
from mixlab.errors import DomainTooSmall, InvalidCorpus, LimitExceeded, MixlabError
from mixlab.ledger.records import Corpus, JobKind, JobState, Queue
from workers.jobs.bounds import bounded
from workers.jobs.compressing import compressed_tokenizer, source_there
from workers.jobs.context import JobContext
from workers.jobs.waiting import error_of

MAX_TOKENIZER_BYTES = 256 * 2**20
JACKKNIFE_BLOCKS = 20  # at least, for a standard error that is itself steady
TOKENISING_SHARE = 0.85  # of the job's time, measured on the demo's corpus
MEASURED = "entropies.json"  # of the domains so far, beside the manifest


def run(context: JobContext) -> Mapping[str, Any] | None:
    """Tokenise and measure what is not measured yet; None while child jobs are under way."""
    corpus_id = str(context.job.payload["corpus_id"])
    folder = context.settings.corpus_folder(corpus_id)
    if not source_there(context, context.ledger.corpus(corpus_id).spec.get("compress"), folder):
        return None
    with only_one(folder):
        corpus = context.ledger.corpus(corpus_id)
        if corpus.tokens is None or not (folder / MANIFEST).exists():
            tokenised = _tokenise(context, corpus, folder)
            _check_same_text(corpus, tokenised, folder)
            context.ledger.record_tokens(corpus_id, tokenised.summary())
        if corpus.entropy is None and not context.settings.gpus:
            record_entropies(context, corpus_id, count_blocks, begin=TOKENISING_SHARE)
    if corpus.entropy is None and context.settings.gpus:
        _leave_to_a_gpu(context, corpus_id)
        return None
    return {"href": f"/corpora/{corpus_id}"}


def _leave_to_a_gpu(context: JobContext, corpus_id: str) -> None:
    """Wait for a child job that counts. Raises what the child met, where it has failed."""
    payload = {"corpus_id": corpus_id}
    child = context.submit_child(
        JobKind.MEASURE_ENTROPY, payload, queue=Queue.GPU, key="entropy"
    )  # fmt: skip
    if child.state in (JobState.FAILED, JobState.CANCELLED):
        raise error_of(child)
    context.progress("entropy", TOKENISING_SHARE)
    context.wait_for_children()


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep two jobs from measuring the same corpus at once; the lock dies with its holder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tokenise(context: JobContext, corpus: Corpus, folder: Path) -> TokenisedCorpus:
    settings, spec = context.settings, corpus.spec
    if settings.remote_schemes:
        guard(settings.remote_endpoints)  # for as long as this process lives
    policy = settings.path_policy()
    domains = [
        DomainSource(name, tuple(domain["paths"]), domain.get("text_field") or "text")
        for name, domain in spec["domains"].items()
    ]
    compressed = spec.get("compress")
    smaller = None if compressed is None else compressed_tokenizer(context, compressed, folder)
    size = sum(stored_bytes(place, policy) for one in domains for place in one.locations)
    with bounded(context.job, folder, settings, size) as note:
        watched = replace(policy, on_open=note)
        return tokenise(
            domains,
            folder,
            vocabulary=int(spec.get("vocabulary") or 2048),
            tokenizer_file=smaller or _given_tokenizer(spec.get("tokenizer_file"), watched, folder),
            validation_fraction=float(spec.get("validation_fraction") or 0.05),
            seed=int(spec.get("seed") or 0),
            limits=settings.read_limits,
            policy=watched,
            progress=lambda fraction: context.progress("tokenise", TOKENISING_SHARE * fraction),
        )


def _check_same_text(corpus: Corpus, tokenised: TokenisedCorpus, folder: Path) -> None:
    """Raise InvalidCorpus where shards that are made again aren't those that were measured."""
    if corpus.tokens not in (None, tokenised.summary()):
        (folder / MANIFEST).unlink()  # nothing shall be trained on them
        raise InvalidCorpus(
            f"The shards of corpus {corpus.id} are gone, and its text has changed since it was "
            "measured; register it as a new corpus."
        )


def _given_tokenizer(location: str | None, policy: PathPolicy, folder: Path) -> Path | None:
    """A copy of the given tokenizer, read as text is: through no link, from no other place."""
    if not location:
        return None
    if policy.on_open is not None:
        policy.on_open(location)
    copy = folder / "tokenizer.given.json"
    with policy.open_file(location) as given:
        write_atomically(copy, lambda path: path.write_bytes(_all_of(given, location)))
    try:
        load_tokenizer(copy)
    except MixlabError as error:  # whose file it is, not where its copy lies
        raise type(error)(str(error).replace(str(copy), location)) from error
    return copy


def _all_of(given: BinaryIO, location: str) -> bytes:
    raw = given.read(MAX_TOKENIZER_BYTES + 1)
    if len(raw) > MAX_TOKENIZER_BYTES:
        raise LimitExceeded(
            f"The tokenizer {location!r} has more than {MAX_TOKENIZER_BYTES} bytes, which no "
            "tokenizer.json needs."
        )
    return raw


class Count(Protocol):
    """What counts a shard's pairs in blocks: `count_blocks`, or the same on a device."""

    def __call__(
        self, tokens: Tokens, starts: Counts, end_of_text_id: int | None, *, blocks: int
    ) -> list[PairCounts]:
        """Counts of up to `blocks` runs of whole documents."""
        ...


def record_entropies(context: JobContext, corpus_id: str, count: Count, *, begin: float) -> None:
    """Measure each domain and write it into the ledger; `begin` of the job is done before."""
    folder = context.settings.corpus_folder(corpus_id)
    corpus = TokenisedCorpus.open(folder)
    shards = file_sha256(folder / MANIFEST)
    found = _measured_before(folder / MEASURED, shards)
    for done, domain in enumerate(corpus.domains):
        context.progress("entropy", begin + (1 - begin) * done / len(corpus.domains))
        if domain in found:
            continue
        try:
            found[domain] = domain_entropy(corpus, domain, count).to_dict()
        except DomainTooSmall as error:
            raise DomainTooSmall(f"Domain {domain!r}: {error}") from error
        write_json(folder / MEASURED, {"shards": shards, "entropies": found})
    context.ledger.record_entropy(corpus_id, {domain: found[domain] for domain in corpus.domains})


def _measured_before(path: Path, shards: str) -> dict[str, Any]:
    """Entropies by domain that an earlier attempt measured on the same shards."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return dict(kept["entropies"]) if kept["shards"] == shards else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def domain_entropy(
    corpus: TokenisedCorpus, domain: str, count: Count = count_blocks
) -> EntropyMeasures:
    """Entropies of a domain's training text, with a jackknife over blocks of its shards."""
    return measures(_Blocks(corpus, domain, count))


@dataclass(frozen=True)
class _Blocks:
    """The counts of a domain's blocks, made anew each time they are asked for.

    Counting twice takes less time than tokenising took, and memory holds the counts of the
    whole domain and of one block, instead of twenty.
    """

    corpus: TokenisedCorpus
    domain: str
    count: Count

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
        return self.count(shard.tokens(), shard.starts(), end_of_text_id, blocks=blocks)
