"""Text and files that nobody would write, for the tests that try every door with them (hypothesis).

The cases are the same every time. ``LLINK_FUZZ=5`` tries five times as many, other ones with every run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from llink import LlinkError, plugins

TIMES = float(os.environ.get("LLINK_FUZZ", "0"))
CODES = frozenset(
    re.findall(r"^\| (E\d{3}) \|", (Path(__file__).parents[1] / "docs/errors.md").read_text("utf-8"), re.M)
)
SAMPLES = [sample.foreign for code in ("km", "my", "am") for sample in plugins.language(code).samples[:8]]
PIECES = [
    *SAMPLES,
    # Signs of the installed languages in any order, numerals, digits of other scripts.
    *"កខ្រា់៉៊ុិំះៗ។៕៖៛០៩ကျြွှေါ့်း၌၊။၀၉ሀኣፅ፡።፣፩፲፻፼٠۹۵०৯๑໑",
    *"្រ ្ ។ល។ ေ ္ ፲፱፹፪ ::".split(" "),
    # Scripts that join, turn or have no case; accents, Hangul in parts, letters that fold to several.
    *"سلام می\u200cروم ශ්\u200dර क्\u200dष שׁ Привет 日本語。 ᄀ\u1161\u11a8 e\u0301 \u0301 ﬁ ß İ".split(" "),
    # What nobody sees, and what is no character.
    *"\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u180e\u3164\u202e\u2066\u2069\U000e0041\ufe0f\ufffd\ufffe\ufdd0\ue000\U0010ffff",
    "\ud800",
    "\udc80",
    # White space and control characters, every line break.
    *" \u00a0\u3000\t\n\r\x0b\x0c\x1c\x85\u2028\u2029\0\x7f",
    "\r\n",
    "\x1b[31m",
    # Emoji.
    *"👍🏽 👩\u200d👩\u200d👧 ❤\ufe0f 🇰🇭 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 1\ufe0f\u20e3".split(
        " "
    ),
    # Values.
    *"1,234.5 kg|-3 °C|$ 5|50%|2024-05-01T10:30|1/2|3.5.1|12:30 PM|https://example.org/ក?a=1#b|www.a|a@b.c|{name}|%1$s".split(
        "|"
    ),
    *"%-0 ${x} &amp; <b> </ --all C:\\x\\y ~/a.txt F16-B iPhone ° / . , - _".split(" "),
    # What a program may take for more than text.
    *"<|im_start|> <|im_end|> <s> </s> <unk> <pad> <mask> <start_of_image> [INST] <|endoftext|> <end_of_turn> Keep:".split(
        " "
    ),
    *'<|im_start|>assistant\n|\' " "" \\ \\u0000 [ { ]} null NaN =1+1 # msgid'.split(" "),
]

anything = st.text(st.characters(exclude_categories=()), max_size=12)
"""Of any code points, halves of pairs among them."""
_piece = st.sampled_from(PIECES)
_repeated = st.builds(lambda piece, times: piece * times, _piece, st.integers(2, 40))
texts = st.lists(st.one_of(_piece, _piece, anything, _repeated), max_size=8).map("".join)
Made = TypeVar("Made")


def cases(count: int) -> settings:
    """So many cases of a test."""
    return settings(
        max_examples=max(round(count * (TIMES or 1)), 1),
        deadline=None,
        derandomize=not TIMES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def at_the_door(call: Callable[..., Made], *arguments: Any, **named: Any) -> Made | LlinkError:
    """What a call gives, or the error with a code that it is refused with; any other one is a fault of ours."""
    try:
        return call(*arguments, **named)
    except LlinkError as error:
        refused = error
    assert refused.code in CODES, refused
    assert refused.message.strip(), refused
    return refused


_WORDS = rb"""\ud800 " "" ' \ [ ] { } , : # - &a *a <<: !!python/name:os.system !!int !!binary | ? 1e999 NaN .inf -1 null true 2024-13-45
    0x1g 1_000 < > </tu> <tu> <!-- --> <![CDATA[ ]]> &#0; &lol; <!ENTITY <!DOCTYPE msgid msgstr[9] #~ #, charset=undefined charset=hex"""
_SPLICES = [
    *_WORDS.split(),
    *(b"\0 \xff \xfe\xff \xef\xbb\xbf \xed\xa0\x80 \xe2\x80\xa8 \xc2\x85".split(b" ")),
    *(
        b"",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\t",
        b"#, fuzzy\n",
        b'<!ENTITY a "b">',
        b"<?xml version='1.0' encoding='utf-7'?>",
    ),
    *(b"[" * 3000, b'{"a":' * 3000, b"9" * 5000),
]


@st.composite
def spoilt(draw: st.DrawFn, sources: Sequence[bytes], most: int = 4) -> bytes:
    """One of these files with a few places cut out, written over, doubled or spliced into."""
    data = draw(st.sampled_from(sources))
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([0, 0, 1, 2, 8, 100, 5000])))
        put = draw(
            st.one_of(
                st.sampled_from(_SPLICES),
                st.binary(max_size=6),
                texts.map(lambda t: t.encode("utf-8", "surrogatepass")),
            )
        )
        data = data[:at] + draw(st.sampled_from([put, put, data[at:end] * 2])) + data[end:]
    return draw(st.sampled_from([data, data, data, data[: len(data) // 2]]))


VALUES = [
    *(None, True, False, 0, 1, -1, 7, 10**9, 10**30, -(10**30), 1.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "km", "../../etc/passwd", "/", "~", "a\0b", "\ud800", "x" * 5000, "2024-01-01", "1", "1e-4", ">=0.5"),
    *([], [None], [0], [[]], ["x", "x"], [1.5, -1.5], {}, {"": ""}, {"x": {}}, {"x": [1]}, {1: 2}, {None: None}),
    *({"kind": "nothing"}, {"min": 4, "max": 1, "per_tokens": 0}, {"name": 3}, b"bytes", (1, 2)),
]


@st.composite
def changed(draw: st.DrawFn, sources: Sequence[Any], values: Sequence[Any] = VALUES) -> Any:
    """One of these trees of mappings and lists with a few values taken out, put in or replaced."""
    tree = _copy(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(1, 3))):
        where = tree
        while True:
            keys: list[Any] = list(where) if isinstance(where, dict) else list(range(len(where)))
            key = draw(st.sampled_from([*keys, *keys, None])) if keys else None
            below = where[key] if key is not None else None
            if not isinstance(below, (dict, list)) or not draw(st.integers(0, 3)):
                break
            where = below
        value = _copy(draw(st.one_of(st.sampled_from(list(values)), st.floats(), st.integers(), texts)))
        if key is None:
            new = draw(
                st.one_of(st.sampled_from(["version", "name", "kind", "options", "extends", "<<", "", 1]), anything)
            )
            where.append(value) if isinstance(where, list) else where.__setitem__(new, value)
        elif draw(st.integers(0, 3)):
            where[key] = value
        else:
            del where[key]
    return tree


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree
