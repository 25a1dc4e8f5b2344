"""The engine: language adapters on one frozen decoder, used from Python."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import weakref
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from itertools import accumulate, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, overload

import torch
from jinja2 import TemplateError
from torch import Tensor

from llink import plugins
from llink.adapter import MANIFEST, adapter_roots, check, check_language, find_adapter, load_bridge, read_manifest
from llink.constrained import RETELLING, Known, known
from llink.errors import LlinkError, unknown_name
from llink.interfaces import Decoder, Encoder
from llink.lora import Lora, LoraSwitch
from llink.models import load_decoder, load_encoder
from llink.passages import Foreign, turns
from llink.plugins import Selected
from llink.prompt import Prompt, build, channel, converse, instruction_for, subject
from llink.reading import filled
from llink.registry import load_registry
from llink.scheduler import QUEUE, Request, Row, Scheduler, closed
from llink.script import check_script
from llink.shared import SHARED, has_adapter, has_shared, language_of
from llink.shelf import BoundedCache, Resident, Shelf, Source
from llink.text import normalise, script_counts
from llink.training.features import BATCH_TOKENS, token_batches
from llink.unread import BLANK, LATIN, unread, with_marks

MAX_CHARS = 20_000
"""Longer text is refused: it is a document, and the slots hold a sentence or two."""
LONG = 256
"""Characters; adapters are trained on text up to here. Longer text becomes several passages of K slots; what is
translated goes sentence by sentence whatever its length."""
MAX_SLOTS = 512
"""Slots that one prompt may have."""
KNOWN = 0.5
"""Share of a text's characters that the encoder must have tokens for, where the shared adapter reads it."""
BATCH = 16
AUTO = "auto"
OPTIONS = (
    "bad_words_ids", "begin_suppress_tokens", "do_sample", "early_stopping", "epsilon_cutoff", "eta_cutoff",
    "exponential_decay_length_penalty", "length_penalty", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_beams",
    "renormalize_logits", "repetition_penalty", "sequence_bias", "suppress_tokens", "temperature", "top_k", "top_p",
    "typical_p",
)  # fmt: skip
"""Options of transformers' ``generate`` that a request may bring; the others are the engine's to set."""


class Engine:
    """One frozen encoder, one frozen decoder, any number of language adapters. Safe to use from several threads.

    Example:
        >>> engine = Engine.load()  # doctest: +SKIP
        >>> engine.generate("ខ្ញុំចូលចិត្តរៀន។", language="km", task="translate")  # doctest: +SKIP

    Args:
        decoder: the frozen decoder. encoder: the frozen encoder, or its name: it is then loaded with the first adapter.
        device: where the adapters and the encoder go.
        dtype: number format of the encoder.
        max_resident, max_bytes: how many adapters, or bytes of them, stay in memory; the least recently used one
            leaves first, and comes back from disk when it is asked for. A request waits until there is room.
        cache_bytes: how much is kept of the encoder's features of recent texts, and as much again of their slots.
        max_queue: texts that may wait for the decoder.
        max_slots: how many slots a passage may get, from adapters whose number of slots is adaptive: fewer are quicker.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoder: Encoder | str,
        *,
        device: str,
        dtype: Any = None,
        max_resident: int | None = None,
        max_bytes: int | None = None,
        cache_bytes: int = 64 << 20,
        max_queue: int = QUEUE,
        max_slots: int | None = None,
    ) -> None:
        self.decoder = decoder
        self.device = device
        self._encoder = None if isinstance(encoder, str) else encoder
        self._encoder_name = encoder if isinstance(encoder, str) else encoder.name
        self._dtype = dtype
        self._max_slots = max_slots
        self._shelf = Shelf(max_resident, max_bytes)
        self._switch = LoraSwitch(decoder)
        self._scheduler = Scheduler(decoder, self._switch, batch=BATCH, queue=max_queue)
        self._features, self._slots = BoundedCache(cache_bytes), BoundedCache(cache_bytes)
        self._default: ContextVar[str | None] = ContextVar("language", default=AUTO)
        # Tokenizers are not safe in several threads, and a text that two threads ask for is encoded once. An adapter
        # is never waited for under one of these locks, because reading it takes both.
        self._encoding, self._wording = threading.RLock(), threading.RLock()
        # The decoder may live on without the engine.
        weakref.finalize(self, self._switch.close).atexit = False

    @classmethod
    def load(
        cls,
        encoder: str | None = None,
        decoder: str | None = None,
        *,
        device: str = "auto",
        dtype: Any = None,
        attn_implementation: str | None = None,
        compile: bool | str = False,
        **limits: Any,
    ) -> Engine:
        """Load the decoder; the encoder follows with the first adapter, which states how it is read.

        Args:
            encoder, decoder: registry names or local folders; the registry's defaults where not given.
            device: ``auto``, ``cpu``, ``cuda``, ``mps`` …
            dtype: ``float32``, ``bfloat16`` or None for what the device does best.
            attn_implementation: of the decoder, as transformers names them.
            compile: whether the decoder goes through ``torch.compile``, or the backend of it; the first requests
                wait for the compiler, and the bits of the bare decoder are then the compiler's.
            limits: ``max_resident``, ``max_bytes``, ``cache_bytes``, ``max_queue``, ``max_slots``.

        Raises:
            LlinkError: E1xx when a model cannot be had, E507 for an unusable device, E519 when the decoder cannot be
                had with this attention.
        """
        default = load_registry().default
        place = pick_device(device)
        options = {"attn_implementation": attn_implementation} if attn_implementation else {}
        try:
            model = load_decoder(decoder or default.decoder, device=place, dtype=dtype, **options)
        except (ValueError, ImportError) as error:
            if not options:
                raise
            said = " ".join(str(error).split())[:200]
            raise LlinkError(
                "E519", f"The decoder cannot be loaded with attention '{attn_implementation}': {said}", "Leave it out."
            ) from error
        engine = cls(model, encoder or default.encoder, device=place, dtype=dtype, **limits)
        if compile:
            backend = compile if isinstance(compile, str) else "inductor"
            model.model.compile(dynamic=True, backend=backend)
        return engine

    # The shelf

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder; loaded on first use."""
        return self._load_encoder({})

    def _load_encoder(self, options: Mapping[str, Any]) -> Encoder:
        with self._encoding:
            if self._encoder is None:
                self._encoder = load_encoder(self._encoder_name, device=self.device, dtype=self._dtype, **options)
            return self._encoder

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes (``CODE@NAME`` of named ones) of the resident adapters, the one that would leave first in front."""
        return tuple(self._shelf)

    @property
    def added(self) -> tuple[str, ...]:
        """Codes of all adapters that were added or used, those that left for room among them."""
        return tuple(self._shelf.sources)

    def add(self, language: str, adapter: Source = None) -> None:
        """Make a language adapter resident; one that was there is replaced at once.

        Requests in flight end with the adapter they began with. Nothing changes when this fails.

        Args:
            language: code or name, or ``CODE@NAME`` for one more adapter of the language beside its own: the one
                that is installed under this name, or ``adapter`` under a name of yours.
            adapter: its folder, or the name of one that is installed; without it the one for this pair of models.

        Raises:
            LlinkError: E201 unknown language, E301 no adapter, E310 damaged, E311 made for other models, E512 no room.
        """
        self._shelf.put(self._read(plugins.select(language), adapter), adapter)

    def replace(self, language: str, adapter: Source = None) -> None:
        """``add`` for a language that was added already; E515 where it was not."""
        self._must_be_known(language)
        self.add(language, adapter)

    def remove(self, language: str) -> None:
        """Take a language's adapter out of memory; requests in flight still end. E515 where it was not added.

        A later request in the language brings in the installed adapter.
        """
        code = self._must_be_known(language)
        self._shelf.drop(code)

    def _must_be_known(self, language: str) -> str:
        code = str(plugins.select(language))
        if code not in self._shelf.sources:
            raise unknown_name("E515", "language on the shelf", code, list(self._shelf.sources))
        return code

    def _read(self, wanted: Selected, adapter: Source) -> Resident:
        if self._scheduler.closed:
            raise closed()
        folder = self._folder(wanted, adapter)
        while True:
            manifest = read_manifest(folder)
            check_language(folder, manifest, wanted.language.code)
            encoder = self._load_encoder(manifest.encoder_options)
            with self._wording:
                check(folder, manifest, encoder, self.decoder)
            bridge = load_bridge(folder, manifest).to(self.device)
            lora = Lora.load(folder, self.decoder)
            # Where a new adapter was installed over this one meanwhile, bridge and LoRA may be of different ones.
            if read_manifest(folder) == manifest:
                return Resident(wanted.language, manifest, bridge, lora, str(wanted))

    def _folder(self, wanted: Selected, adapter: Source) -> Path:
        """The folder of an adapter that is given by folder, by name, or not at all."""
        spoken = wanted.language
        if not re.fullmatch(r"\w[\w-]*", spoken.code):
            raise LlinkError("E301", f"There is no adapter for a language with the code '{spoken.code}'.")
        named = isinstance(adapter, str) and re.fullmatch(r"\w[\w.@-]*", adapter)
        if named and not os.path.isfile(Path(str(adapter)) / MANIFEST):
            for root in adapter_roots(spoken):
                if os.path.isfile(root / str(adapter) / MANIFEST):
                    return root / str(adapter)
        return find_adapter(spoken, self._encoder_name, self.decoder.name, adapter, wanted.adapter)

    def resident(self, language: str) -> Resident:
        """The resident adapter of a language; added first where it is not resident yet."""
        with self._hold(language) as resident:
            return resident

    @contextmanager
    def _hold(self, language: str, deadline: float | None = None) -> Iterator[Resident]:
        if self._scheduler.closed:
            raise closed()
        wanted = plugins.select(language)
        with self._shelf.hold(wanted, lambda source: self._read(wanted, source), deadline) as resident:
            yield resident

    def stats(self) -> dict[str, Any]:
        """What is in memory and what was done.

        ``adapters``: bytes and users of each; ``bytes`` of all; ``hits``, ``loads`` and ``evictions`` of the shelf;
        ``slots`` and ``features``: entries, bytes, hits and misses of the two caches; ``batches`` of prompts that the decoder
        read and ``steps`` of a token each; ``swaps``, the batches that came with other adapters than were there before; texts
        that are ``running`` and ``waiting``.
        """
        own = self._scheduler
        done = {"batches": own.batches, "steps": own.steps, "swaps": own.swaps}
        now = {"running": own.running, "waiting": len(own)}
        return {**self._shelf.stats(), "slots": self._slots.stats(), "features": self._features.stats(), **done, **now}

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._scheduler.closed

    def close(self) -> None:
        """End what waits or runs with E513 or E514, and leave the decoder as it was loaded."""
        self._scheduler.close()
        self._switch.close()

    # Text in, text out

    def detect(self, text: str) -> str:
        """Code of the language that ``text`` is written in, ``mul`` for one without a plugin that the shared adapter reads.

        Raises:
            LlinkError: E502/E503 where script and detectors do not decide.
        """
        return language_of(text, has_shared(self._encoder_name, self.decoder.name))

    def reader(self, text: str, language: str = AUTO) -> str:
        """The adapter that reads a text: ``km``, ``km@paper``, or ``mul``, the shared one, for a language without its own.

        Raises:
            LlinkError: E502/E503/E504 script, E510 empty text, E511 too long, E201 unknown language.
        """
        return self._foreign_code(text, language)

    @overload
    def generate(self, texts: str, language: str | None = ..., **options: Any) -> str: ...
    @overload
    def generate(self, texts: Sequence[str], language: str | None = ..., **options: Any) -> list[str]: ...
    def generate(
        self,
        texts: str | Sequence[str],
        language: str | None = AUTO,
        *,
        languages: str | Sequence[str | None] | None = AUTO,
        task: str | None = "translate",
        instruction: str | None = None,
        verbatim: bool = True,
        loop_guard: bool = True,
        max_new_tokens: int = 128,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> str | list[str]:
        """English answers about foreign texts, greedy, in the order of ``texts``; languages may be mixed.

        Args:
            texts: one text or many. A translation is made sentence by sentence. What has no letters passes through,
                see ``llink.unread``.
            language: code or name for all, or ``CODE@NAME``; ``auto`` is the one of an enclosing ``using``, else goes by script; None
                leaves the decoder untouched and takes ``texts`` as the user's message.
            languages: the same, or one for each text.
            task: ``translate``, ``summarize``, ``title``, ``keypoints`` or ``qa``.
            instruction: a free instruction in English instead of a task.
            verbatim: whether adapters that have the verbatim channel use it, and the digits of a translation, summary or
                title are those of the text's own values (``llink.constrained``).
            loop_guard: whether an answer is kept from repeating itself (``llink.loops``).
            timeout: seconds until E514. cancel: set it from another thread for the same.
            options: those of transformers' ``generate`` that ``OPTIONS`` names.

        Raises:
            LlinkError: E501 unknown task, E502/E503/E504 script, E510 empty text, E511 too long, E3xx adapter, E512 no
                room for it, E513 queue full, E514 timeout, E516 another number of languages than texts, E518 options.
        """
        _check_options(options, max_new_tokens)
        deadline = _deadline(timeout)
        single = isinstance(texts, str)
        rows = [texts] if isinstance(texts, str) else list(texts)
        named = language if language != AUTO else languages
        each = [named] * len(rows) if named is None or isinstance(named, str) else list(named)
        if len(each) != len(rows):
            raise LlinkError(
                "E516",
                f"There are {len(rows)} texts and {len(each)} languages.",
                "Give one for each text, or one for all.",
            )
        outputs: dict[int, str] = {}
        codes: list[str | None] = [None] * len(rows)
        for i, (text, wanted) in enumerate(zip(rows, each, strict=True)):
            passing = self._passing(text, wanted)
            if passing is None:
                codes[i] = self._code(text, wanted)
            else:
                instruction_for(task, instruction)  # a wrong one is told whatever the texts are
                outputs[i] = passing
        while left := [i for i in range(len(rows)) if i not in outputs]:
            with ExitStack() as held:
                residents = self._residents([codes[i] for i in left], held, deadline)
                now = [i for i in left if codes[i] is None or codes[i] in residents]
                groups = self._rows(
                    [rows[i] for i in now],
                    [residents.get(str(codes[i])) for i in now],
                    task,
                    instruction,
                    verbatim,
                    max_new_tokens,
                )
                flat = [row for group in groups for row in group if isinstance(row, Row)]
                for row in flat:
                    row.loop_guard = loop_guard
                request = Request(flat, options, deadline, cancel)
                answers = iter([self._text(ids) for ids in self._scheduler.submit(request).result()] if flat else [])
            for i, group in zip(now, groups, strict=True):
                outputs[i] = " ".join(row if isinstance(row, str) else next(answers) for row in group)
        return outputs[0] if single else [outputs[i] for i in range(len(rows))]

    def stream(
        self,
        text: str,
        language: str | None = AUTO,
        *,
        task: str | None = "translate",
        instruction: str | None = None,
        verbatim: bool = True,
        loop_guard: bool = True,
        max_new_tokens: int = 128,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """The answer to one text in pieces as they are made; joined they are what ``generate`` returns.

        Arguments and errors as for ``generate``. A caller that stops listening cancels the request.
        """
        _check_options(options, max_new_tokens)
        deadline = _deadline(timeout)
        passing = self._passing(text, language)
        if passing is not None:
            instruction_for(task, instruction)
            yield passing
            return
        code = self._code(text, language)
        with ExitStack() as held:
            resident = self._residents([code], held, deadline).get(str(code))
            [rows] = self._rows([text], [resident], task, instruction, verbatim, max_new_tokens)
            read = [row for row in rows if isinstance(row, Row)]
            for row in read:
                row.loop_guard = loop_guard
            yield from self._told(rows, read, options, deadline, cancel)

    def _told(
        self,
        parts: Sequence[Row | str],
        rows: Sequence[Row],
        options: dict[str, Any],
        deadline: float | None,
        cancel: threading.Event | None,
    ) -> Iterator[str]:
        """The answer to one text in pieces: rows are ``parts`` that the decoder reads, the others stand as they are."""
        news: SimpleQueue[None] = SimpleQueue()
        for row in rows:
            row.on_tokens = lambda: news.put(None)
        request = Request(rows, options, deadline, cancel)
        request.future.add_done_callback(lambda _: news.put(None))
        if rows:
            self._scheduler.submit(request)
        try:
            for number, part in enumerate(parts):
                if number:
                    yield " "
                yield from [part] if isinstance(part, str) else self._pieces_of(part, request, news)
            if rows:
                request.result()
        finally:
            request.give_up()

    def _pieces_of(self, row: Row, request: Request, news: SimpleQueue[None]) -> Iterator[str]:
        said = ""
        while not row.done:
            with suppress(Empty):
                news.get(timeout=request.patience)
            if request.given_up() and not row.done:
                request.result()  # raises what ended it
            text = self._text(row.ids)
            # A character may still be half there, and white space at the end may be cut off with the answer.
            if text.startswith(said) and not text.endswith("\ufffd") and text != said:
                yield text[len(said) :]
                said = text
        text = self._text(row.ids)
        if text.startswith(said) and text != said:
            yield text[len(said) :]

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        loop_guard: bool = True,
        max_new_tokens: int = 128,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> str:
        """The decoder's next turn in a conversation of English turns and foreign texts.

        Args:
            messages: ``{"role", "content"}`` each; a content is English text, text in the script of an installed
                language, a ``Foreign(text, language)``, or a list of such parts, which stand on lines of their own.

        Raises:
            LlinkError: E517 for a message of another shape or foreign texts of two languages, and as ``generate``.
        """
        asked = {"loop_guard": loop_guard, "max_new_tokens": max_new_tokens, "timeout": timeout, "cancel": cancel}
        return "".join(self.stream_chat(messages, **asked, **options))

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        loop_guard: bool = True,
        verbatim: bool = True,
        max_new_tokens: int = 128,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """``chat`` in pieces as they are made; a caller that stops listening cancels the request."""
        _check_options(options, max_new_tokens)
        deadline = _deadline(timeout)
        conversation = turns(messages)
        foreign = [part for _, parts in conversation for part in parts if isinstance(part, Foreign)]
        codes = {part: self._foreign_code(part.text, part.language) for part in foreign}
        if len(set(codes.values())) > 1:
            names = ", ".join(sorted({plugins.select(code).called for code in codes.values()}))
            raise LlinkError(
                "E517",
                f"One conversation has texts in several languages ({names}).",
                "The decoder reads one language's slots at a time: translate the others first.",
            )
        with ExitStack() as held:
            resident = next(iter(self._residents(list(codes.values()), held, deadline).values()), None)
            pieces = {part: self._segments(part.text, resident) for part in codes} if resident else {}
            told = [piece for part in foreign for piece in pieces[part]]
            slots = self._slots_of(told, resident) if resident else []
            if sum(map(len, slots)) > MAX_SLOTS:
                raise LlinkError(
                    "E511", f"The texts become {len(slots)} passages of {sum(map(len, slots))} slots in all, and {MAX_SLOTS} fit.",
                    "Leave earlier turns out.",
                )  # fmt: skip
            sizes = iter(map(len, slots))
            contents: list[tuple[str, list[int]]] = []
            values = 0
            with self._wording:
                for role, parts in conversation:
                    ids: list[int] = []
                    for part, end in zip(parts, ["\n"] * (len(parts) - 1) + [""], strict=True):
                        if isinstance(part, str):
                            ids += self.decoder.tokenize(part + end)
                        elif resident:
                            own = pieces[part]
                            lines = self._kept(own, resident) if verbatim else []
                            values += sum(map(len, lines))
                            ids += subject(self.decoder, list(islice(sizes, len(own))), lines)
                            ids += self.decoder.tokenize(end) if end else []
                    contents.append((role, ids))
                try:
                    prompt = converse(self.decoder, contents)
                except TemplateError as error:
                    raise LlinkError(
                        "E517", f"The decoder's chat template refuses the conversation: {error}.",
                        "Let turns of user and assistant alternate.",
                    ) from error  # fmt: skip
            row = self._row(prompt, slots, resident, max_new_tokens, told, values)
            row.loop_guard = loop_guard
            yield from self._told([row], [row], options, deadline, cancel)

    # Vectors

    def slots(self, texts: Sequence[str], language: str) -> Tensor:
        """The slots ``[N, k, D]`` of texts in one language, float32; from the cache where they were asked for before.

        Where the adapter gives a longer text more slots, k is that of the longest of these texts.

        Raises:
            LlinkError: E510 for an empty text, E511 for one that is longer than the encoder reads.
        """
        with self._hold(language) as resident:
            pieces = self._whole(texts, resident)
            most = max(self._counts(pieces, resident), default=resident.bridge.slots)
            found = self._slots_of(pieces, resident, most)
            return torch.stack(found) if found else torch.empty(0, *resident.bridge.reserved.shape)

    def embed(self, texts: Sequence[str], language: str) -> Tensor:
        """Unit vectors of texts in one language, for retrieval; errors as for ``slots``.

        ``[N, D]`` in the decoder's space or ``[N, H]`` in the encoder's, whichever the adapter retrieves in.
        """
        with self._hold(language) as resident:
            return self._vectors(texts, resident).clone()

    def _vectors(self, texts: Sequence[str], resident: Resident) -> Tensor:
        features = self._encode(self._whole(texts, resident))
        like = resident.bridge.reserved
        with torch.inference_mode():
            pooled = [pooled.to(like.device, like.dtype) for _, pooled in features]
            return resident.bridge.aligned(
                torch.stack(pooled) if pooled else like.new_empty(0, self.encoder.hidden_size)
            )

    def rank(self, query: str, candidates: Sequence[str], language: str = AUTO) -> list[tuple[int, float]]:
        """English candidates in the order of their likeness to a foreign query: (index, cosine), best first.

        They are compared where the adapter says: among the encoder's own vectors, or with the teacher states of stage A;
        the adapter's common means are taken out on both sides.

        Raises:
            LlinkError: E510 for an empty query or candidate, and as ``generate``.
        """
        code = self._foreign_code(query, language)
        with self._hold(code) as resident, torch.inference_mode():
            [wanted] = self._vectors([query], resident)
            if not candidates:
                return []
            likeness = self._english(candidates, resident).to(wanted) @ wanted
        order = likeness.argsort(descending=True, stable=True).tolist()
        return [(i, float(likeness[i])) for i in order]

    def embed_english(self, texts: Sequence[str], language: str) -> Tensor:
        """Unit vectors of English texts, to be compared with those that ``embed`` gives for the language; E510 for an empty one."""
        with self._hold(language) as resident, torch.inference_mode():
            return self._english(texts, resident)

    def _english(self, texts: Sequence[str], resident: Resident) -> Tensor:
        from llink.recipe import Teacher
        from llink.training.teacher import TeacherEncoder

        blank = [str(number) for number, text in enumerate(texts) if not normalise(text)]
        if blank:
            raise LlinkError("E510", f"Texts are empty: {', '.join(blank[:9])}, counted from 0.", "Leave them out.")
        if resident.bridge.space == "encoder":
            found = torch.stack([pooled for _, pooled in self._encode([normalise(text) for text in texts])])
        else:
            with self._wording, self._switch.using(None):
                teacher = TeacherEncoder(self.decoder, Teacher(**resident.manifest.recipe["teacher"]))
                found = torch.cat([teacher.encode(texts[i : i + BATCH]).pooled for i in range(0, len(texts), BATCH)])
        return resident.bridge.english(found.to(resident.bridge.reserved))

    def prompt(
        self, instruction: str, language: str, text: str | Sequence[str] | None = None, slots: int | None = None
    ) -> Prompt:
        """The prompt of an instruction with a passage, or with several.

        Args:
            text: one passage or several, for their numbers of slots, and for the verbatim channel where the adapter has it.
            slots: another number of each than its own; without a text the default is K.
        """
        resident = self.resident(language)
        texts = [text] if isinstance(text, str) else list(text or ())
        pieces = [resident.language.normalise(passage) for passage in texts]
        counts = [slots] * len(pieces) if slots else self._counts(pieces, resident)
        with self._wording:
            kept = self._kept(pieces, resident)
            return build(self.decoder, instruction, slots=counts or [slots or resident.bridge.slots], kept=kept)

    def pieces(self, text: str, language: str) -> list[str]:
        """The passages that a text becomes for a free instruction, and for any task but ``translate``.

        Raises:
            LlinkError: E510 for an empty text, E511 where they have more than ``MAX_SLOTS`` slots in all.
        """
        with self._hold(language) as resident:
            return self._segments(text, resident)

    def passages(self, texts: Sequence[str], language: str) -> tuple[list[int], Tensor | None]:
        """What stands in a prompt for texts of one passage each: ids, ``SLOT`` where slots go, and the slots ``[S, D]``."""
        with self._hold(language) as resident:
            pieces = self._whole(texts, resident)
            slots = self._slots_of(pieces, resident)
            with self._wording:
                ids = subject(self.decoder, list(map(len, slots)), self._kept(pieces, resident))
        return ids, torch.cat(slots) if slots else None

    @contextmanager
    def using(self, language: str | None) -> Iterator[None]:
        """Within the block this thread's ``auto`` is the language, and its own passes through ``decoder`` carry its LoRA.

        None: the untouched decoder.
        """
        with ExitStack() as held:
            resident = held.enter_context(self._hold(language)) if language is not None else None
            before = self._default.set(resident.key if resident else None)
            try:
                with self._switch.using(resident.lora if resident else None):
                    yield
            finally:
                self._default.reset(before)

    # One text on its way

    def _passing(self, text: str, language: str | None) -> str | None:
        """The answer to a text that has nothing to read; None for one that is to be read, or refused as blank."""
        if language == AUTO:
            language = self._default.get()
        found = None if language is None else unread(text, ())
        if found is None or found.note in (BLANK, LATIN):
            return None
        if language != AUTO:
            plugins.select(str(language))  # an unknown one is told whatever the text is
        return found.output

    def _code(self, text: str, language: str | None) -> str | None:
        """The language that a text is to be read in, None for the bare decoder."""
        if language == AUTO:
            language = self._default.get()
        if not normalise(text):
            raise LlinkError("E510", "The text is empty.", "Give a sentence.")
        return None if language is None else self._foreign_code(text, language)

    def _foreign_code(self, text: str, language: str) -> str:
        """The language of a text that is to be read through slots."""
        if language == AUTO:
            language = self._default.get() or AUTO
        if len(text) > MAX_CHARS:
            raise LlinkError("E511", f"The text has {len(text):,} characters; {MAX_CHARS:,} is the limit.",
                             "Pass it sentence by sentence, one a line.")  # fmt: skip
        if not normalise(text):
            raise LlinkError("E510", "The text is empty.", "Give a sentence.")
        wanted = plugins.select(self.detect(text) if language == AUTO else language)
        check_script(text, wanted.language)
        names = (self._encoder_name, self.decoder.name)
        own = bool(wanted.adapter) or str(wanted) in self._shelf.sources or has_adapter(wanted, *names)
        return str(wanted) if own or not has_shared(*names) else SHARED

    def _residents(self, codes: Sequence[str | None], held: ExitStack, deadline: float | None) -> dict[str, Resident]:
        """Adapters of languages, held until ``held`` is closed: all of them, or as many as there is room for."""
        residents: dict[str, Resident] = {}
        for code in dict.fromkeys(code for code in codes if code is not None):
            try:
                residents[code] = held.enter_context(self._hold(code, deadline))
            except LlinkError as error:
                if error.code != "E512" or not residents:
                    raise
        return residents

    def _rows(
        self,
        texts: Sequence[str],
        residents: Sequence[Resident | None],
        task: str | None,
        instruction: str | None,
        verbatim: bool,
        limit: int,
    ) -> list[list[Row | str]]:
        """Each text as one or more rows for the decoder, read with its adapter; None for the bare decoder.

        A sentence of a translation that needs no reading stands in the place of its row.
        """
        wanted = instruction_for(task, instruction) if any(residents) else ""
        split = instruction is None and task == "translate"
        pieces = [
            self._segments(text, resident, sentences=split) if resident else []
            for text, resident in zip(texts, residents, strict=True)
        ]
        slots: dict[tuple[Resident, str], Tensor] = {}
        passing: dict[tuple[Resident, str], str] = {}
        for holder in dict.fromkeys(filter(None, residents)):
            mine = [piece for own, other in zip(pieces, residents, strict=True) if other is holder for piece in own]
            if split:
                found = {piece: unread(piece, [holder.language]) for piece in mine}
                passing |= {(holder, piece): own.output for piece, own in found.items() if own}
                mine = [piece for piece in mine if not found[piece]]
            slots |= {(holder, piece): k for piece, k in zip(mine, self._slots_of(mine, holder), strict=True)}
        rows: list[list[Row | str]] = []
        for text, resident, own in zip(texts, residents, pieces, strict=True):
            # Without an adapter the text itself is what is asked; otherwise one row for each group of passages.
            groups = [[]] if resident is None else [[piece] for piece in own] if split else [own]
            rows.append([])
            for group in groups:
                if resident and split and (resident, group[0]) in passing:
                    rows[-1].append(passing[resident, group[0]])
                    continue
                digits: Known | None = None
                with self._wording:
                    if resident is None:
                        prompt = build(self.decoder, text)
                    else:
                        kept = self._kept(group, resident) if verbatim else []
                        if kept and instruction is None and task in RETELLING:
                            digits = known([value for p in group for value in resident.language.verbatim(p)])
                        sizes = [len(slots[resident, piece]) for piece in group]
                        prompt = build(self.decoder, wanted, slots=sizes, kept=kept)
                    values = sum(map(len, kept)) if resident else 0
                row = self._row(prompt, [slots[resident, p] for p in group if resident], resident, limit, group, values)
                row.digits = digits
                rows[-1].append(row)
        return rows

    def _kept(self, pieces: Sequence[str], resident: Resident) -> list[list[int]]:
        """The verbatim channel of each normalised piece; none where the adapter has no such channel."""
        tokens = resident.manifest.verbatim
        return [channel(self.decoder, resident.language.verbatim(p), tokens) for p in pieces] if tokens else []

    def _row(
        self,
        prompt: Prompt,
        slots: Sequence[Tensor],
        resident: Resident | None,
        limit: int,
        texts: Sequence[str] = (),
        values: int = 0,
    ) -> Row:
        """A row of a prompt; ``texts`` are what its slots stand for, with so many tokens of the verbatim channel beside."""
        model: Any = self.decoder.model
        room = getattr(model.config, "max_position_embeddings", None)
        if room is not None and len(prompt.ids) + limit > room:
            raise LlinkError(
                "E511", f"The prompt has {len(prompt.ids):,} tokens and the answer may have {limit:,}; the decoder has room for {room:,}.",
                "Shorten it, or lower max_new_tokens.",
            )  # fmt: skip
        device = self.decoder.embedding_matrix().device
        with torch.inference_mode(), self._wording:
            embeds = filled(self.decoder, prompt, torch.cat(list(slots)).to(device) if slots else None, device)
            raw = sum(len(self.decoder.tokenize(text)) for text in texts)
        counted = {"slots": prompt.slots, "values": values, "raw": raw}
        return Row(embeds, resident.lora if resident else None, limit, **counted)

    def _whole(self, texts: Sequence[str], resident: Resident) -> list[str]:
        """Texts normalised, each to be one passage; refused where nothing is left or the encoder would cut."""
        parts = [resident.language.normalise(text) for text in texts]
        for part, count in zip(parts, self.count_tokens(parts), strict=True):
            if not count:
                raise LlinkError("E510", "The text is empty.", "Give a sentence.")
            self._must_fit(part, count)
        return parts

    def _segments(self, text: str, resident: Resident, sentences: bool = False) -> list[str]:
        """A text as the pieces that get K slots each: its sentences, or whole where it is short and ``sentences`` is not set.

        Args:
            sentences: one piece a sentence; otherwise as many sentences a piece as stay within ``LONG`` characters.
        """
        spoken, text = resident.language, text.strip()
        parts = with_marks(spoken.sentences(text)) if sentences or len(text) > LONG or "\n" in text else [text]
        parts = [spoken.normalise(part) for part in parts]
        counts = self.count_tokens(parts)
        if spoken.code == SHARED:
            self._must_read(text)
        if not any(counts):
            raise LlinkError("E510", "The encoder has no token for anything in the text.", "Give a sentence.")
        passing = [unread(part, [spoken]) if sentences else None for part in parts]
        for part, count, own in zip(parts, counts, passing, strict=True):
            if not own:
                self._must_fit(part, count)
        if sentences:
            kept = [own.note != BLANK if own else count > 0 for own, count in zip(passing, counts, strict=True)]
            return [part for part, keep in zip(parts, kept, strict=True) if keep]
        parts = _joined(parts, counts, self.encoder.max_tokens)
        ends = list(accumulate(self._counts(parts, resident)))
        if ends[-1] > MAX_SLOTS:
            fit = bisect(ends, MAX_SLOTS)
            rest = sum(len(part) for part in parts[fit:])
            raise LlinkError(
                "E511", f"The text becomes {len(parts)} passages of {ends[-1]} slots in all, and {MAX_SLOTS} fit: its last {rest:,} characters would be left out.",
                "Ask about it in parts.",
            )  # fmt: skip
        return parts

    def counts(self, texts: Sequence[str], language: str) -> list[int]:
        """k, the number of slots that each of these texts gets as one passage."""
        with self._hold(language) as resident:
            return self._counts([resident.language.normalise(text) for text in texts], resident)

    def _counts(self, pieces: Sequence[str], resident: Resident) -> list[int]:
        """As ``counts``, of normalised texts."""
        choice = resident.bridge.choice
        if choice.least == choice.most:
            return [choice.most] * len(pieces)
        most = max(choice.least, self._max_slots or choice.most)
        return [min(most, choice.count(tokens)) for tokens in self.count_tokens(pieces)]

    def count_tokens(self, parts: Sequence[str]) -> list[int]:
        """Encoder tokens of normalised texts."""
        with self._encoding:
            return self.encoder.count_tokens(parts)

    def _must_read(self, text: str) -> None:
        with self._encoding:
            share = self.encoder.known_share(text)
        if share < KNOWN:
            script = ", ".join(name.title() for name, _ in script_counts(text).most_common(1)) or "its letters"
            raise LlinkError(
                "E509",
                f"The encoder '{self.encoder.name}' does not know the script of the text ({script}).",
                "Take another encoder; `llink models` lists them.",
            )

    def _must_fit(self, part: str, count: int) -> None:
        if count > self.encoder.max_tokens:
            raise LlinkError(
                "E511", f"A passage of {len(part):,} characters is {count} encoder tokens; {self.encoder.max_tokens} is the limit.",
                "Cut it into sentences, one a line.",
            )  # fmt: skip

    def _encode(self, pieces: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """States ``[T, H]`` and pooled vector ``[H]`` of normalised texts, each encoded once while the cache holds it."""
        if not pieces:
            return []
        with self._encoding:
            texts = {_key(piece): piece for piece in pieces}
            found = {key: self._features.get(key) for key in texts}
            missing = [key for key in texts if found[key] is None]
            counts = self.encoder.count_tokens([texts[key] for key in missing])
            order = sorted(range(len(missing)), key=counts.__getitem__)
            for batch in token_batches([counts[i] for i in order], BATCH_TOKENS):
                chosen = [missing[order[n]] for n in batch]
                with torch.inference_mode():
                    encoded = self.encoder.encode([texts[key] for key in chosen])
                    for key, states, mask, pooled in zip(
                        chosen, encoded.states, encoded.mask, encoded.pooled, strict=True
                    ):
                        found[key] = own, _ = states[mask], pooled.clone()
                        self._features.put(key, found[key], own.nbytes + pooled.nbytes)
        return [found[_key(piece)] for piece in pieces]

    def _slots_of(self, pieces: Sequence[str], resident: Resident, count: int | None = None) -> list[Tensor]:
        """The slots ``[k, D]`` of each normalised text; ``count`` is another k than its own."""
        counts = dict(zip(pieces, [count] * len(pieces) if count else self._counts(pieces, resident), strict=True))
        found = {piece: self._slots.get((resident.serial, k, _key(piece))) for piece, k in counts.items()}
        missing = [piece for piece, slots in found.items() if slots is None]
        like = resident.bridge.reserved
        with torch.inference_mode():
            # One by one: in a batch a text's slots would depend on the other texts, if only in the last digit.
            for piece, (states, pooled) in zip(missing, self._encode(missing), strict=True):
                mask = torch.ones(1, len(states), dtype=torch.bool, device=like.device)
                slots = resident.bridge(pooled[None].to(like), states[None].to(like), mask, counts[piece])[0]
                found[piece] = slots
                self._slots.put((resident.serial, counts[piece], _key(piece)), slots, slots.nbytes)
        return [found[piece] for piece in pieces]

    def _text(self, ids: Sequence[int]) -> str:
        with self._wording:
            return self.decoder.detokenize(ids)


def _deadline(timeout: float | None) -> float | None:
    if timeout is not None and not timeout >= 0:
        raise LlinkError("E518", f"timeout is {timeout}.", "Give seconds, or None for no limit.")
    # Locks cannot wait for longer than some years.
    return None if timeout is None or timeout > threading.TIMEOUT_MAX / 2 else time.monotonic() + timeout


def _check_options(options: Mapping[str, Any], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise LlinkError("E518", f"max_new_tokens is {max_new_tokens}.", "An answer has a token at least.")
    for name in options:
        if name not in OPTIONS:
            raise unknown_name("E518", "option", name, OPTIONS)


def _key(piece: str) -> bytes:
    return hashlib.sha256(piece.encode("utf-8", "surrogatepass")).digest()


def _joined(parts: Sequence[str], counts: Sequence[int], most: int) -> list[str]:
    """Neighbouring sentences put together as long as they stay within ``LONG`` characters and ``most`` tokens."""
    joined: list[tuple[str, int]] = []
    for part, count in zip(parts, counts, strict=True):
        if joined and len(joined[-1][0]) + 1 + len(part) <= LONG and joined[-1][1] + count < most:
            joined[-1] = (f"{joined[-1][0]} {part}".strip(), joined[-1][1] + count + 1)
        elif count:
            joined.append((part, count))
    return [part for part, _ in joined]


def pick_device(device: str) -> str:
    """``auto`` as the accelerator that is there, else the CPU; E507 for a device that cannot be used."""
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator.type if accelerator else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise LlinkError("E507", f"Device '{device}' cannot be used: {reason}", "Try --device cpu.") from error
    return device
