"""From the members of a package to documents: every extractor, by its name in the manifests.

An extractor is a function (members, options) -> documents. It sees only the
members that its part of the manifest selects, in the order of the archive.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mixlab.corpora.catalogue.archives import Member
from mixlab.corpora.catalogue.extractors import evaluations, files, markup, modules

Extractor = Callable[[Iterable[Member], Mapping[str, Any]], Iterator[str]]

EXTRACTORS: dict[str, Extractor] = {
    "files": files.whole_files,
    "after_front_matter": files.after_front_matter,
    "entries": files.entries,
    "chats": files.chats,
    "factbook": files.factbook,
    "html": markup.html_pages,
    "pod": markup.pod_pages,
    "question_passages": evaluations.question_passages,
    "right_endings": evaluations.right_endings,
    "worked_problems": evaluations.worked_problems,
    "paper_contexts": evaluations.paper_contexts,
    "full_papers": evaluations.full_papers,
    "sword": modules.sword_chapters,
    "r_novels": modules.r_novels,
}
