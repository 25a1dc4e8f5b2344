"""Tokenizing user text so that it can never turn into a special token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llink.errors import LlinkError


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a local model folder; E302 where there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise LlinkError("E302", f"No usable tokenizer in {path}: {str(error).splitlines()[0]}") from error


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of ``text`` as ordinary characters, without BOS or EOS; half a surrogate pair becomes U+FFFD.

    ``split_special_tokens`` spells special tokens out. Added tokens that are not flagged special, which it passes, and
    those of a tokenizer that does not know it are broken up by a space after their first character, which no reader
    minds.
    """
    if any("\ud800" <= c <= "\udfff" for c in text):
        # No tokenizer takes half of a character: two halves are put together, a lone one becomes U+FFFD.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    special = _special(tokenizer)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    if special.keys().isdisjoint(ids):
        return ids
    for token in special.values():
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return [i for i in ids if i not in special]


TAGS = set(
    "a b bbox blockquote body caption code div em footer h1 h2 h3 h4 h5 h6 html i iframe img li s span strong sub sup "
    "table tbody td tfoot th thead tr u ul".split()
)


def _controls(token: str) -> bool:
    """Whether an added token looks like a mark between texts: in brackets, and no tag of HTML."""
    inner = token.strip()
    marked = len(inner) > 2 and (inner[0] + inner[-1]) in ("<>", "[]", "{}")
    return marked and inner[1:-1].removeprefix("/") not in TAGS


def _special(tokenizer: Any) -> dict[int, str]:
    """Id -> text of every token that is no text; kept on the tokenizer, since a large one has thousands of added tokens.

    Of added tokens that are not flagged special, white space and the tags of HTML are text: Gemma has a token for each.
    """
    cached = getattr(tokenizer, "_llink_special", None)
    if cached is None:
        added = {
            i: token.content
            for i, token in tokenizer.added_tokens_decoder.items()
            if token.special or _controls(token.content)
        }
        named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        cached = tokenizer._llink_special = {**added, **named}
    return cached
