"""Texts as the decoder gets them: each resolved, cut, tokenised and searched for values once, then made slots and a prompt."""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from llink import plugins
from llink.adapter.prompt import MAX_SLOTS, Prompt, build, channel, instruction_for, subject
from llink.adapter.shared import SHARED, language_of
from llink.adapter.slots import filled
from llink.errors import LlinkError
from llink.features.cache import BATCH_TOKENS, token_batches
from llink.interfaces import Language
from llink.language.script import check_script
from llink.language.text import normalise, script_counts
from llink.language.unread import BLANK, LATIN, unread, with_marks
from llink.plugins import Selected
from llink.serving.constrained import RETELLING, Known, known
from llink.serving.frozen import FrozenPair
from llink.serving.scheduler import Row, counted
from llink.serving.shelf import BoundedCache, Resident, Shelf

MAX_CHARS = 20_000
"""Longer text is refused: it is a document, and the slots hold a sentence or two."""
LONG = 256
"""Characters; adapters are trained on text up to here. Longer text becomes several passages of K slots; what is
translated goes sentence by sentence whatever its length."""
KNOWN = 0.5
"""Share of a text's characters that the encoder must have tokens for, where the shared adapter reads it."""
AUTO = "auto"


@dataclass(frozen=True)
class Asked:
    """A text at the door.

    Attributes:
        wanted: what it is read with; None for the bare decoder.
        passing: its answer, where it has nothing to read.
    """

    text: str
    wanted: Selected | None
    passing: str | None = None


@dataclass(frozen=True)
class TaskOptions:
    """What is asked of texts; the fields are arguments of ``Engine.generate``."""

    task: str | None = "translate"
    instruction: str | None = None
    verbatim: bool = True
    loop_guard: bool = True
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise LlinkError("E518", f"max_new_tokens is {self.max_new_tokens}.", "An answer has a token at least.")

    @property
    def words(self) -> str:
        """The instruction in English; E501 for an unknown task."""
        return instruction_for(self.task, self.instruction)

    @property
    def by_sentence(self) -> bool:
        """Whether each sentence gets an answer of its own."""
        return self.instruction is None and self.task == "translate"

    @property
    def retells(self) -> bool:
        """Whether the answer says what the text says, so that its digits are those of the text."""
        return self.instruction is None and self.task in RETELLING


@dataclass(frozen=True, eq=False)
class Piece:
    """A passage that gets slots of its own.

    Attributes:
        text: normalised.
        tokens: the encoder's.
        k: how many slots it gets.
        language: whose rules find its values.
        passing: what stands for its answer, where it needs no reading.
    """

    text: str
    tokens: Sequence[int]
    k: int
    language: Language
    passing: str | None = None

    @cached_property
    def values(self) -> list[str]:
        """What an answer must not paraphrase, for the verbatim channel and for the digits that an answer may have."""
        return self.language.verbatim(self.text)

    @cached_property
    def key(self) -> bytes:
        """Names its text in the caches."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest()


class Reader:
    """Reads texts for a pair of frozen models. Safe to use from several threads.

    Args:
        shelf: whose adapters are in memory.
        cache_bytes: how much is kept of the encoder's features of recent texts, and as much again of their slots.
        max_slots: how many slots a passage may get, from adapters whose number of slots is adaptive.
    """

    def __init__(self, pair: FrozenPair, shelf: Shelf, cache_bytes: int, max_slots: int | None = None) -> None:
        self.pair, self._shelf, self._max_slots = pair, shelf, max_slots
        self._features, self._slots = BoundedCache(cache_bytes), BoundedCache(cache_bytes)

    def stats(self) -> dict[str, dict[str, int]]:
        """Entries, bytes, hits and misses of the two caches."""
        return {"slots": self._slots.stats(), "features": self._features.stats()}

    # Which adapter

    def ask(self, text: str, language: str | Selected | None = AUTO) -> Asked:
        """A text, what it is read with, and its answer where it has nothing to read; None for the bare decoder.

        Raises:
            LlinkError: E510 for an empty text, and as ``resolve``.
        """
        if language is None:
            _refuse_blank(text)
            return Asked(text, None)
        found = unread(text, ())
        if found is None or found.note in (BLANK, LATIN):
            return Asked(text, self.resolve(text, language))
        return Asked(text, None if language == AUTO else plugins.select(language), found.output)

    def resolve(self, text: str, language: str | Selected = AUTO) -> Selected:
        """The adapter that reads a text: its language's own, or the shared one where there is none.

        Raises:
            LlinkError: E502/E503/E504 script, E510 empty text, E511 too long, E201 unknown language.
        """
        if len(text) > MAX_CHARS:
            raise LlinkError(
                "E511",
                f"The text has {len(text):,} characters; {MAX_CHARS:,} is the limit.",
                "Pass it sentence by sentence, one a line.",
            )
        _refuse_blank(text)
        if language == AUTO:
            wanted = self.detect(text)
        else:
            wanted = plugins.select(language)
            check_script(text, wanted.language)
        own = bool(wanted.adapter) or str(wanted) in self._shelf.sources or self.pair.has(wanted)
        return wanted if own or not self.pair.has_shared() else Selected(plugins.languages()[SHARED])

    def detect(self, text: str) -> Selected:
        """The language that a text is written in; E502/E503 where script and detectors do not decide."""
        return Selected(language_of(text, self.pair.has_shared()))

    # Pieces

    def passages(self, texts: Sequence[str], resident: Resident) -> list[Piece]:
        """Each text as one piece, whatever its length."""
        return self.tokenised([resident.language.normalise(text) for text in texts], resident)

    def whole(self, texts: Sequence[str], resident: Resident) -> list[Piece]:
        """Each text as one piece.

        Raises:
            LlinkError: E510 for an empty text, E511 for one that is longer than the encoder reads.
        """
        found = self.passages(texts, resident)
        for piece in found:
            if not piece.tokens:
                raise LlinkError("E510", "The text is empty.", "Give a sentence.")
            self._must_fit(piece)
        return found

    def pieces(self, text: str, resident: Resident, *, by_sentence: bool = False) -> list[Piece]:
        """The pieces that a text becomes: one where it is short, else as many sentences in each as stay within ``LONG``.

        Args:
            by_sentence: one piece a sentence.

        Raises:
            LlinkError: E509 for a script that the encoder does not know, E510 for a text without a token, E511 where it
                does not fit.
        """
        spoken, text = resident.language, text.strip()
        parts = with_marks(spoken.sentences(text)) if by_sentence or len(text) > LONG or "\n" in text else [text]
        found = self.passages(parts, resident)
        if spoken.code == SHARED:
            self._must_read(text)
        if not any(piece.tokens for piece in found):
            raise LlinkError("E510", "The encoder has no token for anything in the text.", "Give a sentence.")
        if by_sentence:
            return self._sentences(found, spoken)
        for piece in found:
            self._must_fit(piece)
        known = {piece.text: piece for piece in found}
        texts = _joined([(piece.text, len(piece.tokens)) for piece in found], self.pair.encoder.max_tokens)
        longer = self.tokenised([text for text in texts if text not in known], resident)
        known |= {piece.text: piece for piece in longer}
        found = [known[text] for text in texts]
        ends = list(accumulate(piece.k for piece in found))
        if ends[-1] > MAX_SLOTS:
            rest = sum(len(piece.text) for piece in found[bisect(ends, MAX_SLOTS) :])
            raise LlinkError(
                "E511",
                f"The text becomes {len(found)} passages of {ends[-1]} slots in all, and {MAX_SLOTS} fit: its last "
                f"{rest:,} characters would be left out.",
                "Ask about it in parts.",
            )
        return found

    def _sentences(self, pieces: Sequence[Piece], spoken: Language) -> list[Piece]:
        """The sentences that are answered: without blank ones, with the answers of those that need no reading."""
        found = []
        for piece in pieces:
            own = unread(piece.text, [spoken])
            if own is None:
                self._must_fit(piece)
                found += [piece] if piece.tokens else []
            elif own.note != BLANK:
                found.append(replace(piece, passing=own.output))
        return found

    def tokenised(self, texts: Sequence[str], resident: Resident) -> list[Piece]:
        """Normalised texts as pieces."""
        choice = resident.bridge.choice
        most = max(choice.least, self._max_slots or choice.most)
        found = []
        for text, tokens in zip(texts, self.pair.tokenize(texts) if texts else (), strict=True):
            k = choice.most if choice.least == choice.most else min(most, choice.count(len(tokens)))
            found.append(Piece(text, tokens, k, resident.language))
        return found

    def _must_read(self, text: str) -> None:
        with self.pair.encoding:
            share = self.pair.encoder.known_share(text)
        if share < KNOWN:
            script = ", ".join(name.title() for name, _ in script_counts(text).most_common(1)) or "its letters"
            raise LlinkError(
                "E509",
                f"The encoder '{self.pair.encoder.name}' does not know the script of the text ({script}).",
                "Take another encoder; `llink models` lists them.",
            )

    def _must_fit(self, piece: Piece) -> None:
        count, most = len(piece.tokens), self.pair.encoder.max_tokens
        if count > most:
            raise LlinkError(
                "E511",
                f"A passage of {len(piece.text):,} characters is {count} encoder tokens; {most} is the limit.",
                "Cut it into sentences, one a line.",
            )

    # Tensors

    def features(self, pieces: Sequence[Piece]) -> list[tuple[Tensor, Tensor]]:
        """States ``[T, H]`` and pooled vector ``[H]`` of each piece, encoded once while the cache holds it."""
        if not pieces:
            return []
        with self.pair.encoding:
            distinct = {piece.key: piece for piece in pieces}
            found = {key: self._features.get(key) for key in distinct}
            missing = sorted((p for key, p in distinct.items() if found[key] is None), key=lambda p: len(p.tokens))
            for batch in token_batches([len(piece.tokens) for piece in missing], BATCH_TOKENS):
                chosen = [missing[n] for n in batch]
                with torch.inference_mode():
                    encoded = self.pair.encoder.encode_tokens([piece.tokens for piece in chosen])
                    rows = zip(chosen, encoded.states, encoded.mask, encoded.pooled, strict=True)
                    for piece, states, mask, pooled in rows:
                        found[piece.key] = own, _ = states[mask], pooled.clone()
                        self._features.put(piece.key, found[piece.key], own.nbytes + pooled.nbytes)
        return [found[piece.key] for piece in pieces]

    def slots(self, pieces: Sequence[Piece], resident: Resident, count: int | None = None) -> list[Tensor]:
        """The slots ``[k, D]`` of each piece, float32; ``count`` is another k than its own."""
        names = {piece.key: (resident.serial, count or piece.k, piece.key) for piece in pieces}
        found = {key: self._slots.get(name) for key, name in names.items()}
        missing = [piece for key, piece in {p.key: p for p in pieces}.items() if found[key] is None]
        like = resident.bridge.reserved
        with torch.inference_mode():
            # One by one: in a batch a text's slots would depend on the other texts, if only in the last digit.
            for piece, (states, pooled) in zip(missing, self.features(missing), strict=True):
                mask = torch.ones(1, len(states), dtype=torch.bool, device=like.device)
                slots = resident.bridge(pooled[None].to(like), states[None].to(like), mask, count or piece.k)[0]
                found[piece.key] = slots
                self._slots.put(names[piece.key], slots, slots.nbytes)
        return [found[piece.key] for piece in pieces]

    # Prompts

    def channels(self, pieces: Sequence[Piece], resident: Resident) -> list[list[int]]:
        """The verbatim channel of each piece; none where the adapter has no such channel."""
        tokens = resident.manifest.verbatim
        return [channel(self.pair.decoder, piece.values, tokens) for piece in pieces] if tokens else []

    def subject(self, pieces: Sequence[Piece], resident: Resident, *, verbatim: bool = True) -> list[int]:
        """What stands in a prompt for pieces: ids, ``SLOT`` where slots go, each with its verbatim channel."""
        with self.pair.wording:
            kept = self.channels(pieces, resident) if verbatim else []
            return subject(self.pair.decoder, [piece.k for piece in pieces], kept)

    def prompt(
        self,
        instruction: str,
        resident: Resident,
        pieces: Sequence[Piece] = (),
        *,
        slots: int | None = None,
        verbatim: bool = True,
    ) -> Prompt:
        """The prompt of an instruction with pieces.

        Args:
            pieces: without one the prompt has the K slots of one.
            slots: of each piece, where it is another number than its own.
            verbatim: whether the verbatim channel is in it, where the adapter has one.
        """
        counts = [slots or piece.k for piece in pieces] or [slots or resident.bridge.slots]
        with self.pair.wording:
            kept = self.channels(pieces, resident) if verbatim else []
            return build(self.pair.decoder, instruction, slots=counts, kept=kept)

    def row(
        self,
        prompt: Prompt,
        slots: Sequence[Tensor],
        resident: Resident | None,
        options: TaskOptions,
        digits: Known | None = None,
        pieces: Sequence[Piece] = (),
    ) -> Row:
        """A prompt with its slots, which stand for ``pieces``, for the decoder; E511 where it has no room for it."""
        decoder, limit = self.pair.decoder, options.max_new_tokens
        model: Any = decoder.model
        room = getattr(model.config, "max_position_embeddings", None)
        if room is not None and len(prompt.ids) + limit > room:
            raise LlinkError(
                "E511",
                f"The prompt has {len(prompt.ids):,} tokens and the answer may have {limit:,}; the decoder has room for "
                f"{room:,}.",
                "Shorten it, or lower max_new_tokens.",
            )
        device = decoder.embedding_matrix().device
        with torch.inference_mode():
            embeds = filled(decoder, prompt, torch.cat(list(slots)).to(device) if slots else None, device)
        row = Row(embeds, resident.lora if resident else None, limit, digits=digits, loop_guard=options.loop_guard)
        if resident and counted():
            with self.pair.wording:
                kept = self.channels(pieces, resident) if options.verbatim else []
                row.slots = prompt.slots + sum(map(len, kept))
                row.raw = sum(len(decoder.tokenize(piece.text)) for piece in pieces)
        return row

    def rows(
        self, texts: Sequence[str], residents: Sequence[Resident | None], options: TaskOptions
    ) -> list[list[Row | str]]:
        """Each text as rows for the decoder, read with its adapter; None for the bare decoder.

        A row has the embeddings of its prompt, its LoRA and what digits may spell in its answer. A sentence of a
        translation that needs no reading stands in the place of its row.
        """
        cut = [
            self.pieces(text, resident, by_sentence=options.by_sentence) if resident else []
            for text, resident in zip(texts, residents, strict=True)
        ]
        slots: dict[tuple[Resident, bytes], Tensor] = {}
        for holder in dict.fromkeys(filter(None, residents)):
            of_holder = (own for own, other in zip(cut, residents, strict=True) if other is holder)
            read = [piece for own in of_holder for piece in own if piece.passing is None]
            slots |= {(holder, p.key): made for p, made in zip(read, self.slots(read, holder), strict=True)}
        return [
            [
                self._row_of(group, resident, slots, options)
                for group in ([[p] for p in own] if options.by_sentence else [own])
            ]
            if resident
            else [self._bare(text, options)]
            for text, resident, own in zip(texts, residents, cut, strict=True)
        ]

    def _bare(self, text: str, options: TaskOptions) -> Row:
        with self.pair.wording:
            prompt = build(self.pair.decoder, text)
        return self.row(prompt, [], None, options)

    def _row_of(
        self,
        group: Sequence[Piece],
        resident: Resident,
        slots: Mapping[tuple[Resident, bytes], Tensor],
        options: TaskOptions,
    ) -> Row | str:
        if len(group) == 1 and group[0].passing is not None:
            return group[0].passing
        prompt = self.prompt(options.words, resident, group, verbatim=options.verbatim)
        channelled = options.verbatim and resident.manifest.verbatim
        digits = known([v for piece in group for v in piece.values]) if channelled and options.retells else None
        return self.row(prompt, [slots[resident, piece.key] for piece in group], resident, options, digits, group)


def _refuse_blank(text: str) -> None:
    if not normalise(text):
        raise LlinkError("E510", "The text is empty.", "Give a sentence.")


def _joined(parts: Sequence[tuple[str, int]], most: int) -> list[str]:
    """Neighbouring sentences put together as long as they stay within ``LONG`` characters and ``most`` tokens."""
    joined: list[tuple[str, int]] = []
    for part, count in parts:
        if joined and len(joined[-1][0]) + 1 + len(part) <= LONG and joined[-1][1] + count < most:
            joined[-1] = (f"{joined[-1][0]} {part}".strip(), joined[-1][1] + count + 1)
        elif count:
            joined.append((part, count))
    return [part for part, _ in joined]
