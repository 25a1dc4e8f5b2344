"""Text out of bytes: by its byte order mark, by what the file declares, else UTF-8; what is none of these is told, not guessed."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable

HEAD = 1 << 13
"""Bytes from the start of a file that say how it is encoded."""
# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
# Python counts these among its encodings of text; no file of text is in them.
_NO_TEXT = {"utf-7", "idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"}
_ASCII = re.compile(rb"[\0\t\n\r -~]*")
_ESCAPED = re.compile("[\udc80-\udcff]")
"""What the error handler ``surrogateescape`` makes of bytes that are no UTF-8."""


def encoding_of(head: bytes, declared: str | None = None) -> str:
    """The name of the encoding of a file that begins with ``head``.

    A byte order mark decides. Without one UTF-16 and UTF-32 are known by their zero bytes. Then what the file says of
    itself counts, unless that is a one-byte encoding and the bytes are sound UTF-8 beyond ASCII: such text is mislabelled.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if wide := _wide(head[:HEAD]):
        return wide
    name = _usable(declared)
    return "utf-8" if one_byte(name) and sound_utf8([head]) else name


def decoded(data: bytes, declared: str | None = None, errors: str = "strict") -> str:
    """All of ``data`` as text, without a byte order mark; UnicodeDecodeError where ``errors`` is strict."""
    return data.decode(encoding_of(data, declared), errors).removeprefix("\ufeff")


def fault(text: str) -> str | None:
    """What is wrong with a line that was decoded with ``surrogateescape``, in a few words; None where nothing is."""
    if found := _ESCAPED.search(text):
        byte = ord(found[0]) - 0xDC00
        # Windows-1252 stands for all that "ANSI" may be: a reader sees at once whether it fits.
        guess = bytes([byte]).decode("cp1252", "ignore")
        return f"byte 0x{byte:02X} is not UTF-8" + (f" (it is {guess} in Windows-1252)" if guess else "")
    return "a zero byte" if "\0" in text else None


def one_byte(name: str) -> bool:
    """Whether each byte is a character in an encoding, so that no byte is wrong in it."""
    return len(bytes(range(256)).decode(name, "replace")) == 256


def sound_utf8(blocks: Iterable[bytes]) -> bool:
    """Whether bytes are UTF-8 with more than ASCII in it; what breaks off at their end is not held against them."""
    decoder, more = codecs.getincrementaldecoder("utf-8")(), False
    try:
        for block in blocks:
            more = not decoder.decode(block).isascii() or more
    except UnicodeDecodeError:
        return False
    return more


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: decoded so, nothing but text; and no words of ASCII stand in the bytes."""
    zeros = head.count(b"\0")
    if not zeros or re.search(rb"[ -~]{16}", head) or (100 * zeros < len(head) and sound_utf8([head])):
        return None
    if 4 * zeros < len(head) and _ASCII.fullmatch(head):
        return None  # half of such text would be zeros
    found: dict[str, int] = {}
    for name in _WIDE:
        try:
            text = codecs.getincrementaldecoder(name)().decode(head)
        except UnicodeDecodeError:
            continue
        ascii_count = sum(char.isascii() for char in text)
        if ascii_count and all(char in "\t\n\r" or unicodedata.category(char) not in ("Cc", "Cn") for char in text):
            found[name] = ascii_count
    return max(found, key=lambda name: found[name]) if found else None


def _usable(declared: str | None) -> str:
    """The codec of a declared encoding, UTF-8 where there is none of text by that name."""
    try:
        name = codecs.lookup(declared or "utf-8").name
        "".encode(name)  # LookupError where it is no encoding of text
    except (LookupError, ValueError, UnicodeError):
        return "utf-8"
    if name in _NO_TEXT or name == "ascii" or name.startswith(("utf-16", "utf-32", "utf-8")):
        return "utf-8"  # a wide one would have been seen by now
    # As browsers do: what is called Latin-1 has the quotation marks of Windows-1252, or nothing in their place.
    return "cp1252" if name == "iso8859-1" else name
