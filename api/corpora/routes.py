"""Routes of corpora."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from api.corpora.compressing import checked_compression
from api.corpora.schemas import CorpusBody, CorpusPage, CorpusView
from api.dependencies import Id, LedgerDep, PolicyDep
from api.jobs.schemas import PRIORITY_LIMIT, JobView
from api.making import WAITS, MakingDep, MakingRoute, makes, makes_job
from api.openapi import problems
from api.paging import PageSize, PageToken, after_of, size_of, token_for
from mixlab.corpora.reading.paths import PathPolicy
from mixlab.errors import (
    InvalidCorpus,
    InvalidMixture,
    MissingFile,
    NotReady,
    PathNotAllowed,
    UnknownCorpus,
    UnknownMixture,
)
from mixlab.ledger.records import JobKind, Queue
from mixlab.ledger.sql import Ledger

MAX_PATHS = 20_000  # each is looked at before the answer, at a tenth of a millisecond

REFUSALS = (
    InvalidCorpus,
    InvalidMixture,
    MissingFile,
    NotReady,
    PathNotAllowed,
    UnknownCorpus,
    UnknownMixture,
)

router = APIRouter(prefix="/corpora", tags=["corpora"], route_class=MakingRoute)

PriorityQuery = Annotated[
    int,
    Query(
        ge=-PRIORITY_LIMIT, le=PRIORITY_LIMIT,
        description="Of queued jobs, the highest is taken first.",
    ),
]  # fmt: skip


@router.post(
    "",
    status_code=201,
    operation_id="registerCorpus",
    response_model=CorpusView,
    responses=makes("corpus", *REFUSALS),
)
def register_corpus(
    body: CorpusBody, making: MakingDep, policy: PolicyDep
) -> CorpusView | Response:
    """Register domains of text. Every path is looked at now; the text is read by a job.

    A path that is not there is a 422, one that may not be read (outside the allowed folders,
    through a symbolic link, not a regular file) a 403.
    """
    spec = checked_spec(body, policy, making.ledger)
    if making.only_check:
        return making.checked({"name": body.name, "spec": spec})
    corpus = making.ledger.add_corpus(body.name, spec, number=making.number)
    making.response.headers["Location"] = f"/corpora/{corpus.id}"
    return CorpusView.of(corpus)


@router.get("", operation_id="listCorpora", responses=problems(422))
def list_corpora(
    ledger: LedgerDep, page_size: PageSize = 0, page_token: PageToken = ""
) -> CorpusPage:
    """Corpora, newest first."""
    after, size = after_of(page_token, {}), size_of(page_size)
    found = ledger.corpora(limit=size + 1, after=after)
    token = token_for([corpus.id for corpus in found], size, {})
    views = [CorpusView.of(corpus) for corpus in found[:size]]
    return CorpusPage(corpora=views, next_page_token=token)


@router.get("/{corpus_id:id}", operation_id="getCorpus", responses=problems(UnknownCorpus))
def get_corpus(corpus_id: Id, ledger: LedgerDep) -> CorpusView:
    """One corpus, with its token counts and entropies once they are measured."""
    return CorpusView.of(ledger.corpus(corpus_id))


@router.post(
    "/{corpus_id:id}/entropy",
    status_code=202,
    operation_id="measureCorpus",
    response_model=JobView,
    responses=makes_job(UnknownCorpus, body=False),
    dependencies=WAITS,
)
def measure_corpus(
    corpus_id: Id, making: MakingDep, priority: PriorityQuery = 0
) -> JobView | Response:
    """Tokenise the corpus and measure its domains' entropies."""
    making.ledger.corpus(corpus_id)  # an unknown corpus is told now, not by a failed job
    payload = {"corpus_id": corpus_id}
    return making.job(JobKind.MEASURE_CORPUS, payload, queue=Queue.CPU, priority=priority)


def checked_spec(body: CorpusBody, policy: PathPolicy, ledger: Ledger) -> dict[str, Any]:
    """What the ledger keeps of a body, its paths checked and normalised. Raises the REFUSALS."""
    if len(body.domains) < 2:
        raise InvalidCorpus(
            f"A corpus needs at least two domains to mix; this one has {len(body.domains)}."
        )
    named = sum(len(domain.paths) for domain in body.domains.values())
    if named > MAX_PATHS:
        raise InvalidCorpus(
            f"The domains name {named} paths, more than {MAX_PATHS}; name folders instead of files."
        )
    compress = checked_compression(body, ledger)
    return {
        "domains": {
            name: {
                "paths": [policy.check(path) for path in domain.paths],
                "text_field": domain.text_field,
            }
            for name, domain in body.domains.items()
        },
        "vocabulary": body.vocabulary if compress is None else compress["vocabulary"],
        "tokenizer_file": _checked_file(body.tokenizer_file, policy),
        "compress": compress,
        "validation_fraction": body.validation_fraction,
        "seed": body.seed,
    }


def _checked_file(location: str | None, policy: PathPolicy) -> str | None:
    """The path of one local file that can be read; None where none is given."""
    if location is None:
        return None
    normal = policy.check(location)
    policy.open_file(normal).close()  # a folder or a remote URL is none
    return normal
