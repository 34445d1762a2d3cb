"""Bytes to text: invalid UTF-8 becomes U+FFFD, and each one is counted.

Replacement follows the Unicode standard's "maximal subpart" practice (section 3.9),
as bytes.decode("utf-8", "replace") does. JSON can also spell half of a surrogate
pair (`\\ud83d`), which no UTF-8 can hold: replaced and counted in the same way.
"""

import re

REPLACEMENT = "\ufffd"
_REPLACEMENT_UTF8 = REPLACEMENT.encode()
# Half pairs, without U+DC80..U+DCFF, which stand for bytes under "surrogateescape".
_HALF_PAIR = re.compile("[\ud800-\udc7f\udd00-\udfff]")

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decode(raw: bytes) -> tuple[str, int]:
    """Text of UTF-8 bytes, and how many characters had to be replaced."""
    try:
        return raw.decode("utf-8"), 0
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
    # EF can only start a character, so every EF BF BD in the bytes was a real U+FFFD.
    return text, text.count(REPLACEMENT) - raw.count(_REPLACEMENT_UTF8)


def decode_keeping_bytes(raw: bytes) -> str:
    """Text in which each invalid byte is a lone surrogate, for `repaired` to settle later."""
    return raw.decode("utf-8", "surrogateescape")


def repaired(text: str) -> tuple[str, int, int]:
    """Text without lone surrogates, how many characters were replaced, and its UTF-8 bytes."""
    try:
        return text, 0, len(text) if text.isascii() else len(text.encode("utf-8"))
    except UnicodeEncodeError:
        whole, halves = _HALF_PAIR.subn(REPLACEMENT, text)
    fixed, invalid = decode(whole.encode("utf-8", "surrogateescape"))
    return fixed, halves + invalid, len(fixed.encode("utf-8"))
