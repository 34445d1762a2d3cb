import gzip
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from mixlab.corpora.catalogue.archives import Member
from mixlab.corpora.catalogue.extractors import EXTRACTORS
from mixlab.corpora.catalogue.extractors.markup import looks_english
from mixlab.errors import TruncatedFile


def extract(name: str, *members: Member, options: Mapping[str, Any] | None = None) -> list[str]:
    return list(EXTRACTORS[name](members, options or {}))


def requests(*docs: dict[str, Any]) -> Member:
    """As OLMo writes them: each item once per answer, and again without its context."""
    lines = [
        json.dumps({"doc": doc, "request": {"context": shot, "continuation": choice}, "doc_id": n})
        for shot, first in (("shots " * 50, 0), ("Answer:", 1_000_000))
        for n, doc in enumerate(docs, first)
        for choice in doc.get("choices", ["x"])
    ]
    return Member("t/requests.jsonl.gz", gzip.compress("\n".join(lines).encode()))


def test_right_endings_come_without_shots_and_wrong_endings() -> None:
    docs = [
        {"query": "To cook rice", "choices": ["burn it.", "boil water."], "gold": 1},
        {"query": "He sat", "choices": [", then stood.", "x"], "gold": 0},
    ]
    found = extract("right_endings", requests(*docs))
    assert set(found) == {"To cook rice boil water.", "He sat, then stood."}
    # The unconditional copies are whole repeats, which the exact duplicates filter takes.
    assert len(found) == 4


def test_passages_problems_and_papers() -> None:
    passage = {"query": "Oslo -- A city.\nQuestion: is it?\nAnswer:", "choices": ["yes"]}
    assert set(extract("question_passages", requests(passage))) == {"Oslo -- A city."}
    problem = {"problem": "1+1?", "choices": ["It is 2."]}
    assert set(extract("worked_problems", requests(problem))) == {"1+1?\n\nIt is 2."}
    sections = {"section_name": ["Intro", None], "paragraphs": [["a", "b"], ["c"]]}
    paper = {"title": "T", "abstract": "A", "full_text": sections}
    assert extract("full_papers", requests(paper))[0] == "T\n\nA\n\nIntro\n\na\n\nb\n\n\n\nc"


def test_front_matter_goes_and_rules_inside_the_text_stay() -> None:
    member = Member("mit.LICENSE", b"---\nkey: mit\n---\n\nPermission\n---\nis granted")
    assert extract("after_front_matter", member) == ["\nPermission\n---\nis granted"]


def test_entries_are_grouped_and_the_index_before_them_dropped() -> None:
    entry = "   :word: n.\n\n   " + "meaning " * 250 + "\n\n"
    member = Member("d.txt.gz", gzip.compress(("index\n\n" + entry * 5).encode()))
    found = extract("entries", member, options={"entry": r"^   :(?=\S)"})
    assert "".join(found) == entry * 5
    assert len(found) == 3


def test_entries_of_a_file_without_any_are_none() -> None:
    assert extract("entries", Member("d", b"nothing"), options={"entry": "^:"}) == []


def test_chats_are_lines_of_turns() -> None:
    turn = [{"text": "Hi", "sender": "a"}, {"text": "you", "sender": "a"}]
    chats = {"id": {"messages": [turn, [{"text": "Hello", "sender": "b"}]]}}
    assert extract("chats", Member("c.json", json.dumps(chats).encode())) == ["Hi you\nHello"]


def test_factbook_reads_as_headings_and_sentences() -> None:
    country = {"Geography": {"Area": {"total": {"text": "3 km"}}, "Notes": {"text": "flat"}}}
    found = extract("factbook", Member("xx.json", json.dumps(country).encode()))
    assert found == ["\nGeography\n\nArea\ntotal: 3 km\nNotes: flat"]


def test_html_becomes_its_visible_text() -> None:
    page = (
        "<html><head><title>t</title></head><body><nav>menu</nav><h1>Title</h1><p>One &amp; "
        "<b>two</b><script>if (a<b) x()</script></p><!-- <p>no</p> --><table><tr><td>a</td>"
        "<td>b</td></tr></table></body></html>"
    )
    assert extract("html", Member("p.html", page.encode()))[0].split() == (
        ["Title", "One", "&", "two", "a", "b"]
    )


def test_untranslated_pages_are_dropped_and_others_not() -> None:
    english = "This is the description of the option that you set for the page from the menu. "
    german = "Dies ist die Beschreibung der Option, die in der Seite for gesetzt werden kann. "
    japanese = "この the ページ of では for オプションを設定します。"
    pages = [Member(f"{n}.html", f"<p>{t}</p>".encode()) for n, t in enumerate([english, german])]
    assert extract("html", *pages, options={"drop_english": True}) == [f"\n{german.strip()}\n"]
    assert looks_english(english)
    assert not looks_english(japanese)


def test_pod_loses_its_commands_and_codes() -> None:
    pod = "=head1 NAME\n\nB<bold> and C<I<nested>> and C<< a > b >>\n\n=over 4\n\n=cut\n"
    assert extract("pod", Member("p.pod", pod.encode())) == [
        "NAME\n\nbold and nested and a > b\n\n"
    ]


def sword_module(*blocks: str) -> list[Member]:
    index, packed = b"", b""
    for block in blocks:
        data = zlib.compress(block.encode())
        index += struct.pack("<III", len(packed), len(data), len(block))
        packed += data
    return [Member("m/ot.bzz", packed), Member("m/ot.bzs", index)]


def test_sword_chapters_are_plain_text() -> None:
    book = (
        '<chapter n="1" osisID="G.1" sID="G.1"/>In the <w lemma="x">beginning</w>'
        '<note>not this</note>. <chapter eID="G.1"/><chapter n="2" sID="G.2"/>Thus'
    )
    found = [text.strip() for text in extract("sword", *sword_module(book)) if text.strip()]
    assert found == ["In the beginning.", "Thus"]


def test_a_damaged_sword_module_says_so() -> None:
    packed, index = sword_module("text")
    with pytest.raises(TruncatedFile, match="damaged"):
        extract("sword", Member(packed.name, b"junk" * 9), index)


def test_r_novels_split_at_chapters() -> None:
    lines = ["EMMA", "CHAPTER 1", "Emma Woodhouse", "CHAPTER 2", "Mr. Weston"]
    body = b"X\n" + struct.pack(">III", 2, 0x30500, 0x20300) + struct.pack(">II", 16, len(lines))
    for line in lines:
        body += struct.pack(">Ii", 0x40009, len(line)) + line.encode()
    member = Member("Rdata.rdb", struct.pack(">I", len(body)) + zlib.compress(body))
    assert extract("r_novels", member, member) == [
        *("EMMA\n", "CHAPTER 1\nEmma Woodhouse\n", "CHAPTER 2\nMr. Weston"),
        *("EMMA\n", "CHAPTER 1\nEmma Woodhouse\n", "CHAPTER 2\nMr. Weston"),
    ]


def test_an_r_object_that_is_no_text_says_so() -> None:
    body = b"X\n" + struct.pack(">III", 2, 0, 0) + struct.pack(">II", 13, 1) + b"\0\0\0\1"
    member = Member("Rdata.rdb", struct.pack(">I", len(body)) + zlib.compress(body))
    with pytest.raises(TruncatedFile, match="type 13"):
        extract("r_novels", member)


def test_undecodable_bytes_become_replacement_characters() -> None:
    assert extract("files", Member("a.txt", b"caf\xe9\r\nx")) == ["caf�\nx"]
