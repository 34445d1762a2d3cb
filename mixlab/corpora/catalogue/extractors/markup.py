"""Documents from HTML, Mallard and POD pages.

Limits: enough of each markup to read as text; tables become lines of cells.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

from mixlab.corpora.catalogue.archives import Member
from mixlab.corpora.catalogue.extractors.files import text_of

SKIPPED = frozenset(
    "head script style nav header footer aside noscript button info mal:credit svg".split()
)
BLOCKS = frozenset(
    "p div section article h1 h2 h3 h4 h5 h6 li dt dd tr table ul ol dl pre blockquote br "
    "title item steps list note example screen code listing page hr".split()
)
ENGLISH = frozenset("the of and to is in for with this that are you from can be".split())
ENGLISH_SHARE = 0.12


class _Text(HTMLParser):
    """Collects the text outside the skipped elements, one line per block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._skipping: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SKIPPED:
            self._skipping.append(tag)
        elif tag in BLOCKS:
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._skipping:
            # Elements that a page forgot to close end with the one around them.
            del self._skipping[self._skipping.index(tag) :]
        elif tag in BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.pieces.append(data)


def html_pages(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """One document per page; `drop_english`: without those that were never translated."""
    for member in members:
        parser = _Text()
        parser.feed(text_of(member))
        parser.close()
        text = _tidy("".join(parser.pieces))
        if not (options.get("drop_english") and looks_english(text)):
            yield text


def pod_pages(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """One document per POD file, without commands and formatting codes."""
    del options
    for member in members:
        text = re.sub(r"^=(head\d|item) +", "", text_of(member), flags=re.MULTILINE)
        text = re.sub(r"^=[a-z].*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"\b[BCFILSXZ]<<+ (.*?) >>+", r"\1", text, flags=re.DOTALL)
        for _ in range(2):  # codes nest, seldom deeper
            text = re.sub(r"\b[BCFILSXZ]<([^<>]*)>", r"\1", text)
        yield re.sub(r"\n{3,}", "\n\n", text.replace("E<gt>", ">").replace("E<lt>", "<"))


def looks_english(text: str) -> bool:
    """Whether English function words make up more than 12% of the words."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return sum(word in ENGLISH for word in words) > ENGLISH_SHARE * max(1, len(words))


def _tidy(text: str) -> str:
    lines = (re.sub(r"[ \t\xa0]+", " ", line).strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
