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
    """Ids of ``text`` as ordinary characters, without BOS or EOS.

    ``split_special_tokens`` spells out what is registered as special. A few added tokens are not
    registered so (Gemma's ``[multimodal]``, Llama's reserved ones in some conversions); they are
    broken up with a space after their first character, which no reader minds.
    """
    reserved = _reserved(tokenizer)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    if reserved.keys().isdisjoint(ids):
        return ids
    for token in reserved.values():
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return [i for i in ids if i not in reserved]


def _reserved(tokenizer: Any) -> dict[int, str]:
    """Ids that user text must not contain: special tokens, and added tokens that look like markup."""
    cached = getattr(tokenizer, "_llink_reserved", None)
    if cached is None:
        special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        markup = {
            i: t.content
            for i, t in tokenizer.added_tokens_decoder.items()
            if t.special or (t.content[:1] in "<[" and t.content[-1:] in ">]" and not _is_html(t.content))
        }
        cached = tokenizer._llink_reserved = {**markup, **special}
    return cached


def _is_html(token: str) -> bool:
    """Gemma has tokens for HTML tags; they are text like any other."""
    name = token.strip("</>")
    return token.startswith("<") and name.isalnum() and name.islower() and not name.startswith("unused") and name not in {
        "bos", "eos", "pad", "unk", "mask", "s",
    }  # fmt: skip
