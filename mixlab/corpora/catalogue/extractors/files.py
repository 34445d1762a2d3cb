"""Documents from text files, dictionaries and JSON records.

Undecodable bytes become U+FFFD. Members ending in .gz or .dz are unpacked first.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mixlab.corpora.catalogue.archives import Member, gunzip

ENTRY_CHARACTERS = 4_000


def text_of(member: Member) -> str:
    """The member's text, unpacked, with plain newlines."""
    text = gunzip(member).data.decode("utf-8", "replace")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def whole_files(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """One document per file."""
    del options
    yield from map(text_of, members)


def after_front_matter(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """One document per file, without the YAML between two `---` lines that opens it."""
    del options
    for member in members:
        text = text_of(member)
        yield re.sub(r"\A---\n.*?^---\n?", "", text, count=1, flags=re.DOTALL | re.MULTILINE)


def entries(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """Runs of neighbouring dictionary entries of about 4,000 characters each.

    `entry` is the regular expression of an entry's first line; what stands
    before the first entry (title, index) is dropped. Single entries would make
    documents of a few dozen tokens.
    """
    opening = re.compile(options["entry"], flags=re.MULTILINE)
    for member in members:
        text = text_of(member)
        starts = [match.start() for match in opening.finditer(text)]
        first = starts[0] if starts else len(text)
        for start in [*starts[1:], len(text)] if starts else []:
            if start - first >= ENTRY_CHARACTERS or start == len(text):
                yield text[first:start]
                first = start


def chats(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """One document per chat, one line per turn; senders and times are left out."""
    del options
    for member in members:
        for chat in json.loads(member.data).values():
            turns = (" ".join(message["text"] for message in turn) for turn in chat["messages"])
            yield "\n".join(turns)


def factbook(members: Iterable[Member], options: Mapping[str, Any]) -> Iterator[str]:
    """One document per country: headings and sentences of the nested JSON."""
    del options
    for member in members:
        yield "\n".join(_sentences(json.loads(member.data)))


def _sentences(node: Any, heading: str = "") -> Iterator[str]:
    if isinstance(node, str):
        yield f"{heading}: {node}" if heading else node
    elif isinstance(node, list):
        for child in node:
            yield from _sentences(child, heading)
    elif isinstance(node, dict):
        for key, child in node.items():
            if isinstance(child, dict) and "text" not in child:
                yield f"\n{key}"
            yield from _sentences(child, heading if key == "text" else key)
