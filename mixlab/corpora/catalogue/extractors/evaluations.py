"""Documents from the evaluation requests inside the OLMo wheels.

A `requests.jsonl.gz` repeats each item once per answer, per number of shots
and, for normalisation, without its context (document ids from 1,000,000). All
repeats carry the same `doc`, so each `doc` is read once, and neither the shots
nor the unconditional copies come through.

Source: the layout written by allenai/OLMo `olmo.eval` and allenai/OLMo-core's
in-loop evaluations. Whoever trains on these must not evaluate on them; the
manifests list the sets.
"""

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mixlab.corpora.catalogue.archives import Member, UnpackLimits
from mixlab.errors import UnsafeArchive


def right_endings(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """The context with its right ending (HellaSwag, PIQA, ...)."""
    del options
    for doc in _docs(members):
        ending = doc["choices"][doc["gold"]].strip()
        yield doc["query"].rstrip() + ("" if ending[:1] in ",.;:" else " ") + ending


def question_passages(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """The passage that a question is about, without the question (BoolQ)."""
    del options
    for doc in _docs(members):
        yield doc["query"].rsplit("\nQuestion:", 1)[0]


def worked_problems(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """A problem and its worked solution (MATH, GSM8K)."""
    del options
    for doc in _docs(members):
        problem = doc["problem"] if "problem" in doc else doc["question"]
        yield problem + "\n\n" + doc["choices"][0]


def paper_contexts(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """Abstracts or excerpts of papers (SciRIFF)."""
    del options
    for doc in _docs(members):
        yield doc["context"]


def full_papers(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """Whole papers: title, abstract, sections (QASPER)."""
    del options
    for doc in _docs(members):
        names, sections = doc["full_text"]["section_name"], doc["full_text"]["paragraphs"]
        body = (
            "\n\n".join([name or "", *section])
            for name, section in zip(names, sections, strict=True)
        )
        yield "\n\n".join([doc["title"], doc["abstract"], *body])


def _docs(members: Iterable[Member]) -> Iterator[dict[str, Any]]:
    for member in members:
        before = b""
        for line in _lines(member):
            # Repeats stand side by side; comparing their bytes spares parsing them.
            head, cut, _ = line.partition(b', "request": ')
            if head != before:
                yield json.loads(head + b"}" if cut else line)["doc"]
            before = head


def _lines(member: Member) -> Iterator[bytes]:
    limits = UnpackLimits()
    total = 0
    with gzip.open(io.BytesIO(member.data)) as stream:
        while line := stream.readline(limits.member_bytes):
            total += len(line)
            if total > limits.total_bytes or len(line) == limits.member_bytes:
                raise UnsafeArchive(f"{member.name} unpacks to more than the limits allow.")
            yield line
