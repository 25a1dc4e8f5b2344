"""Translation models of others: a text of one language in, its English out. The alternative that LLINK is measured against."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llink.errors import LlinkError
from llink.home import expand
from llink.language.called import called
from llink.progress import no_bars, no_report

if TYPE_CHECKING:
    from llink.interfaces import Language

CT2 = "ct2:"
"""Before a model's name: run it in CTranslate2."""
LIMIT = 256
"""Tokens of a sentence's translation at most."""
BATCH = 8


@dataclass(frozen=True)
class Spec:
    """A translation model as a user names it: ``[ct2:]MODEL[@REVISION][#SOURCE]``.

    Attributes:
        model: a folder, or the id of a repository of the hub.
        revision: of the repository; empty for its main branch.
        source: what the model calls the language of the texts, where that cannot be told from the language.
        fast: whether CTranslate2 runs it.
    """

    model: str
    revision: str = ""
    source: str = ""
    fast: bool = False

    @classmethod
    def read(cls, name: str) -> Spec:
        """From its name; E532 where it is empty."""
        fast, rest = name.startswith(CT2), name.removeprefix(CT2)
        place, _, source = rest.rpartition("#") if "#" in rest else (rest, "", "")
        if not place:
            raise LlinkError(
                "E532", "No translation model is named.", "Write it as cascade=ORG/MODEL or cascade=FOLDER."
            )
        if os.path.isdir(expand(place)):
            return cls(str(expand(place)), "", source, fast)
        model, _, revision = place.partition("@")
        return cls(model, revision, source, fast)


@dataclass(frozen=True)
class Way:
    """How a model is told what to translate from and to.

    Attributes:
        prefix: text before each sentence.
        source: the tokenizer's ``src_lang``.
        target: the token that a translation begins with.
    """

    prefix: str = ""
    source: str = ""
    target: str = ""


class Translator(ABC):
    """A translation model, loaded, from one language to English."""

    name: str
    fingerprint: str
    """All that decides its translations."""
    signature: str
    """The same for people: name, revision, engine, number format, beams."""
    bytes: int
    """Of its weights in memory."""
    language: Language

    @abstractmethod
    def sentences(self, texts: Sequence[str]) -> list[str]:
        """The English of single sentences, one batch."""

    def translate(self, texts: Sequence[str]) -> list[str]:
        """The English of texts; each goes sentence by sentence, which is what these models are trained on."""
        cut = [self.language.sentences(self.language.normalise(text)) for text in texts]
        flat = sorted({sentence for sentences in cut for sentence in sentences}, key=len)
        known: dict[str, str] = {}
        for start in range(0, len(flat), BATCH):
            batch = flat[start : start + BATCH]
            known |= dict(zip(batch, self.sentences(batch), strict=True))
        return [" ".join(filter(None, (known[sentence].strip() for sentence in sentences))) for sentences in cut]


def open_translator(name: str, language: Language, device: str = "cpu") -> Translator:
    """A translation model that transformers loads: NLLB, M2M100, Marian, mBART-50, MADLAD (T5).

    Args:
        name: see ``Spec``.
        device: torch's name of it.

    Raises:
        LlinkError: E532 when it cannot be had, is no translation model, or needs CTranslate2, which is not installed;
            E533 when it does not know the language, or does not translate to English.
    """
    spec = Spec.read(name)
    if spec.fast:
        from llink.evaluation.translators.fast import FastTranslator

        return FastTranslator(spec, language, device)
    from llink.evaluation.translators.seq2seq import Seq2SeqTranslator

    return Seq2SeqTranslator(spec, language, device)


def load(spec: Spec, kind: str, **options: Any) -> Any:
    """``AutoTokenizer``, ``AutoConfig`` or a model of transformers for ``spec``; E532 when it cannot be had.

    Weights that a repository has only as a pickle are read by torch's reader for tensors, which runs no code.
    """
    import transformers

    revision = {"revision": spec.revision} if spec.revision else {}
    try:
        with no_bars(), no_report():
            return getattr(transformers, kind).from_pretrained(spec.model, **revision, **options)
    except Exception as error:  # whatever a stranger's folder makes transformers trip over
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise LlinkError(
            "E532",
            f"{spec.model} cannot be loaded as a translation model: {type(error).__name__}: {said}.",
            "Name a folder or a repository of the hub with an NLLB, M2M100, Marian, mBART-50 or MADLAD model.",
        ) from error


def spoken(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """The text of tokens, without special ones; M2M100's language tokens are not marked as such."""
    marks = set((getattr(tokenizer, "lang_code_to_id", None) or {}).values())
    plain = [[number for number in row if number not in marks] for row in rows]
    return [text.strip() for text in tokenizer.batch_decode(plain, skip_special_tokens=True)]


def way(tokenizer: Any, language: Language, source: str = "") -> Way:
    """How a tokenizer wants to be told "from ``language`` to English".

    Args:
        source: what the user says that the model calls the language.

    Raises:
        LlinkError: E533 when it has no word for one of the two, or several for the language.
    """
    vocabulary = tokenizer.get_vocab()
    codes = sorted(getattr(tokenizer, "lang_code_to_id", None) or {})
    if "<2en>" in vocabulary:  # MADLAD: it finds the language of the text by itself
        return Way(prefix="<2en> ")
    if "en" in codes:  # M2M100
        return Way(source=_called(language, codes, source), target=tokenizer.get_lang_token("en"))
    for english, form in (("eng_Latn", r"[a-z]{3}_[A-Z][a-z]{3}"), ("en_XX", r"[a-z]{2,3}_[A-Z]{2}")):  # NLLB, mBART-50
        if english in vocabulary:
            return Way(
                source=_called(language, [t for t in vocabulary if re.fullmatch(form, t)], source), target=english
            )
    targets = getattr(tokenizer, "supported_language_codes", None)
    if targets is not None:
        return _marian(tokenizer, language, targets)
    raise LlinkError(
        "E533",
        f"Nothing in the tokenizer says how {type(tokenizer).__name__} is asked for English.",
        "Take an NLLB, M2M100, Marian, mBART-50 or MADLAD model.",
    )


def _marian(tokenizer: Any, language: Language, targets: Sequence[str]) -> Way:
    """Marian's models are of fixed languages; those to several ask for a token before the text."""
    reads, writes = (str(getattr(tokenizer, f"{side}_lang", None) or "") for side in ("source", "target"))
    if targets:
        english = next((token for token in (">>eng<<", ">>en<<") if token in targets), "")
        if not english:
            raise LlinkError(
                "E533", "The Marian model does not translate to English.", f"It has: {', '.join(targets[:20])}."
            )
    elif writes in ("", "en", "eng"):
        english = ""
    else:
        raise LlinkError(
            "E533", f"The Marian model translates to '{writes}', not to English.", "Take one that ends in -en."
        )
    if len(reads) == 2 and reads != language.code:
        raise LlinkError(
            "E533",
            f"The Marian model reads '{reads}', not {language.name} ({language.code}).",
            "Take one for it, or one for many languages: Helsinki-NLP/opus-mt-mul-en.",
        )
    return Way(prefix=f"{english} " if english else "")


def _called(language: Language, codes: Sequence[str], source: str) -> str:
    """What a model calls a language: a code that begins with one of ISO 639's, in the language's script."""
    if source:
        if source not in codes:
            raise LlinkError("E533", f"The translation model has no language '{source}'.", _few(codes, language))
        return source
    found = called(language, codes)
    if len(found) == 1:
        return found[0]
    if found:
        raise LlinkError(
            "E533",
            f"The translation model has {language.name} as {', '.join(found)}.",
            "Say which: cascade=MODEL#CODE.",
        )
    raise LlinkError(
        "E533", f"The translation model does not know {language.name} ({language.code3}).", _few(codes, language)
    )


def _few(codes: Sequence[str], language: Language) -> str:
    near = [code for code in codes if code[:1] == language.code3[:1]]
    return f"Name what it calls the language, cascade=MODEL#CODE; it has {', '.join(near[:20]) or 'none like it'}, …"
