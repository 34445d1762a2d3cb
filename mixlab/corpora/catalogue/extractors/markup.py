"""Documents from HTML, Mallard and POD pages.

Tags are cut out by one linear pass over the page, several times faster than
`html.parser` and as good for generated manuals.

Limits: enough of each markup to read as text; tables become lines of cells.
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mixlab.corpora.catalogue.archives import Member
from mixlab.corpora.catalogue.extractors.files import text_of

TAG = re.compile(r"(<!--.*?-->|<[a-zA-Z/!?][^<>]*>)", flags=re.DOTALL)
NAME = re.compile(r"</?([\w:]+)")
SKIPPED = frozenset(
    [
        *("head", "script", "style", "nav", "header", "footer", "aside", "noscript", "button"),
        *("info", "mal:credit", "svg"),
    ]
)
BLOCKS = frozenset(
    [
        *("p", "div", "section", "article", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd"),
        *("tr", "table", "ul", "ol", "dl", "pre", "blockquote", "br", "hr", "title", "item"),
        *("steps", "list", "note", "example", "screen", "code", "listing", "page"),
    ]
)
CELLS = frozenset(("td", "th"))
# None of them is a frequent word of another language in the catalogue.
ENGLISH = frozenset(("the", "of", "and", "for", "with", "this", "that", "you", "from"))
ENGLISH_SHARE = 0.08
FOREIGN_LETTER_SHARE = 0.15


def html_pages(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """One document per page; `drop_english`: without those that were never translated."""
    for member in members:
        text = _tidy(html.unescape("".join(_visible(text_of(member)))))
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
    """Whether English function words are frequent and letters beyond ASCII are not."""
    letters = re.sub(r"[\W\d_]+", "", text)
    if len(letters) - len(letters.encode("ascii", "ignore")) > FOREIGN_LETTER_SHARE * len(letters):
        return False
    words = re.findall(r"[^\W\d_]+", text.lower())
    return sum(word in ENGLISH for word in words) > ENGLISH_SHARE * len(words)


def _visible(page: str) -> Iterator[str]:
    """Text outside the skipped elements, with newlines where blocks begin and end."""
    skipping: str | None = None
    for piece in TAG.split(page):
        if not TAG.match(piece):
            if skipping is None:
                yield piece
            continue
        named = NAME.match(piece)
        name = named.group(1).lower() if named else ""
        if skipping is not None:
            skipping = None if piece.startswith("</") and name == skipping else skipping
        elif name in SKIPPED and piece[1] != "/" and not piece.endswith("/>"):
            skipping = name
        else:
            yield "\n" if name in BLOCKS else " " if name in CELLS else ""


def _tidy(text: str) -> str:
    lines = (re.sub(r"[ \t\xa0]+", " ", line).strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
