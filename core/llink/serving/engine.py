"""The engine: language adapters on one frozen decoder, used from Python."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import TYPE_CHECKING, Any, overload

from llink import plugins
from llink.adapter.lora import LoraSwitch
from llink.adapter.prompt import BATCH
from llink.errors import LlinkError
from llink.interfaces import Decoder, Encoder
from llink.plugins import Selected
from llink.serving import chat, vectors
from llink.serving.frozen import FrozenPair
from llink.serving.reader import AUTO, Asked, Reader, TaskOptions
from llink.serving.scheduler import QUEUE, Row, Scheduler, Terms
from llink.serving.shelf import AdapterSource, Resident, Shelf
from llink.serving.stream import streamed
from llink.store.models import load_decoder, pick_device
from llink.store.registry import load_registry

if TYPE_CHECKING:
    from torch import Tensor

Named = str | Selected | None
"""A language by code or name, ``CODE@NAME``, ``auto``; None for the bare decoder."""


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

    Attributes:
        reader: texts as the decoder gets them: their pieces, slots and prompts.
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
        self.decoder, self.device = decoder, device
        self._pair = FrozenPair(decoder, encoder, device, dtype)
        self._shelf = Shelf(self._pair.open, max_resident, max_bytes)
        self.reader = Reader(self._pair, self._shelf, cache_bytes, max_slots)
        self._switch = LoraSwitch(decoder)
        self._scheduler = Scheduler(decoder, self._switch, batch=BATCH, queue=max_queue)
        self._default: ContextVar[Selected | str | None] = ContextVar("language", default=AUTO)
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
        default, place = load_registry().default, pick_device(device)
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
            model.model.compile(dynamic=True, backend=compile if isinstance(compile, str) else "inductor")
        return engine

    # The shelf

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder; loaded on first use."""
        return self._pair.encoder

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes (``CODE@NAME`` of named ones) of the resident adapters, the one that would leave first in front."""
        return tuple(self._shelf)

    @property
    def added(self) -> tuple[str, ...]:
        """Codes of all adapters that were added or used, those that left for room among them."""
        return tuple(self._shelf.sources)

    def add(self, language: str | Selected, adapter: AdapterSource = None) -> None:
        """Make a language adapter resident; one that was there is replaced at once.

        Requests in flight end with the adapter they began with. Nothing changes when this fails.

        Args:
            language: code or name, or ``CODE@NAME`` for one more adapter of the language beside its own: the one
                that is installed under this name, or ``adapter`` under a name of yours.
            adapter: its folder, or the name of one that is installed; without it the one for this pair of models.

        Raises:
            LlinkError: E201 unknown language, E301 no adapter, E310 damaged, E311 made for other models, E512 no room.
        """
        self._shelf.add(plugins.select(language), adapter)

    def replace(self, language: str | Selected, adapter: AdapterSource = None) -> None:
        """``add`` for a language that was added already; E515 where it was not."""
        self._shelf.add(self._shelf.must_have(plugins.select(language)), adapter)

    def remove(self, language: str | Selected) -> None:
        """Take a language's adapter out of memory; requests in flight still end. E515 where it was not added.

        A later request in the language brings in the installed adapter.
        """
        self._shelf.drop(self._shelf.must_have(plugins.select(language)))

    def resident(self, language: str | Selected) -> Resident:
        """The resident adapter of a language; added first where it is not resident yet."""
        with self._shelf.hold(plugins.select(language)) as resident:
            return resident

    def stats(self) -> dict[str, Any]:
        """What is in memory and what was done.

        ``adapters``: bytes and users of each; ``bytes`` of all; ``hits``, ``loads`` and ``evictions`` of the shelf;
        ``slots`` and ``features``: entries, bytes, hits and misses of the two caches; ``batches`` of prompts that the decoder
        read and ``steps`` of a token each; ``swaps``, the batches that came with other adapters than were there before; texts
        that are ``running`` and ``waiting``.
        """
        own = self._scheduler
        done = {"batches": own.batches, "steps": own.steps, "swaps": own.swaps}
        return {**self._shelf.stats(), **self.reader.stats(), **done, "running": own.running, "waiting": len(own)}

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._scheduler.closed

    def close(self) -> None:
        """End what waits or runs with E513 or E514, and leave the decoder as it was loaded."""
        self._shelf.close()
        self._scheduler.close()
        self._switch.close()

    # Text in, text out

    def detect(self, text: str) -> str:
        """Code of the language that ``text`` is written in, ``mul`` for one without a plugin that the shared adapter reads.

        Raises:
            LlinkError: E502/E503 where script and detectors do not decide.
        """
        return str(self.reader.detect(text))

    def adapter_of(self, text: str, language: str | Selected = AUTO) -> str:
        """The adapter that reads a text: ``km``, ``km@paper``, or ``mul``, the shared one, for a language without its own.

        Raises:
            LlinkError: E502/E503/E504 script, E510 empty text, E511 too long, E201 unknown language.
        """
        return str(self._resolve(text, language))

    @overload
    def generate(self, texts: str, language: Named = ..., **options: Any) -> str: ...
    @overload
    def generate(self, texts: Sequence[str], language: Named | Sequence[Named] = ..., **options: Any) -> list[str]: ...
    def generate(
        self,
        texts: str | Sequence[str],
        language: Named | Sequence[Named] = AUTO,
        *,
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
                see ``llink.language.unread``.
            language: code or name, or ``CODE@NAME``, for all texts or one for each; ``auto`` is the one of an enclosing
                ``using``, else goes by script; None leaves the decoder untouched and takes a text as the user's message.
            task: ``translate``, ``summarize``, ``title``, ``keypoints`` or ``qa``.
            instruction: a free instruction in English instead of a task.
            verbatim: whether adapters that have the verbatim channel use it, and the digits of a translation, summary or
                title are those of the text's own values (``llink.serving.constrained``).
            loop_guard: whether an answer is kept from repeating itself (``llink.adapter.loops``).
            timeout: seconds until E514. cancel: set it from another thread for the same.
            options: those of transformers' ``generate`` that ``llink.serving.scheduler.OPTIONS`` names.

        Raises:
            LlinkError: E501 unknown task, E502/E503/E504 script, E510 empty text, E511 too long, E3xx adapter, E512 no
                room for it, E513 queue full, E514 timeout, E516 another number of languages than texts, E518 options.
        """
        task_options = TaskOptions(task, instruction, verbatim, loop_guard, max_new_tokens)
        terms = Terms.of(options, timeout, cancel)
        rows = [texts] if isinstance(texts, str) else list(texts)
        asked = self._ask(rows, language, task_options)
        outputs = {i: own.passing for i, own in enumerate(asked) if own.passing is not None}
        while left := [i for i in range(len(rows)) if i not in outputs]:
            with ExitStack() as held:
                residents = self._shelf.hold_all([asked[i].wanted for i in left], held, terms.deadline)
                now = [i for i in left if asked[i].wanted is None or str(asked[i].wanted) in residents]
                holders = [residents.get(str(asked[i].wanted)) for i in now]
                groups = self.reader.rows([rows[i] for i in now], holders, task_options)
                flat = [row for group in groups for row in group if isinstance(row, Row)]
                ids = self._scheduler.submit(terms.request(flat)).result() if flat else []
            answers = map(self._pair.detokenize, ids)
            for i, group in zip(now, groups, strict=True):
                outputs[i] = " ".join(row if isinstance(row, str) else next(answers) for row in group)
        return outputs[0] if isinstance(texts, str) else [outputs[i] for i in range(len(rows))]

    def stream(self, text: str, language: Named = AUTO, **options: Any) -> Iterator[str]:
        """The answer to one text in pieces as they are made; joined they are what ``generate`` returns.

        Arguments and errors as for ``generate``. A caller that stops listening cancels the request.
        """
        timing = {name: options.pop(name, None) for name in ("timeout", "cancel")}
        task_options = TaskOptions(
            **{field.name: options.pop(field.name) for field in fields(TaskOptions) if field.name in options}
        )
        terms = Terms.of(options, **timing)
        [asked] = self._ask([text], language, task_options)
        if asked.passing is not None:
            yield asked.passing
            return
        with ExitStack() as held:
            resident = self._shelf.hold_all([asked.wanted], held, terms.deadline).get(str(asked.wanted))
            [parts] = self.reader.rows([text], [resident], task_options)
            request = terms.request([part for part in parts if isinstance(part, Row)])
            yield from streamed(parts, request, self._scheduler.submit, self._pair.detokenize)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The decoder's next turn in a conversation of English turns and foreign texts; all as for ``stream_chat``."""
        return "".join(self.stream_chat(messages, **options))

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        verbatim: bool = True,
        loop_guard: bool = True,
        max_new_tokens: int = 128,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """``chat`` in pieces as they are made; a caller that stops listening cancels the request.

        Args:
            messages: ``{"role", "content"}`` each; a content is English text, text in the script of an installed
                language, a ``Foreign(text, language)``, or a list of such parts, which stand on lines of their own.

        Raises:
            LlinkError: E517 for a message of another shape or foreign texts of two languages, and as ``generate``.
        """
        task_options = TaskOptions(verbatim=verbatim, loop_guard=loop_guard, max_new_tokens=max_new_tokens)
        terms = Terms.of(options, timeout, cancel)
        conversation = chat.turns(messages)
        wanted = chat.one_language(conversation, lambda part: self._resolve(part.text, part.language))
        with ExitStack() as held:
            resident = self._shelf.hold_all([wanted], held, terms.deadline).get(str(wanted))
            row = chat.row(self.reader, conversation, resident, task_options)
            yield from streamed([row], terms.request([row]), self._scheduler.submit, self._pair.detokenize)

    @contextmanager
    def using(self, language: str | Selected | None) -> Iterator[None]:
        """Within the block this thread's ``auto`` is the language, and its own passes through ``decoder`` carry its LoRA.

        None: the untouched decoder.
        """
        with ExitStack() as held:
            wanted = None if language is None else plugins.select(language)
            resident = held.enter_context(self._shelf.hold(wanted)) if wanted else None
            before = self._default.set(wanted)
            try:
                with self._switch.using(resident.lora if resident else None):
                    yield
            finally:
                self._default.reset(before)

    # Vectors

    def slots(self, texts: Sequence[str], language: str | Selected) -> Tensor:
        """The slots ``[N, k, D]`` of texts in one language, float32; from the cache where they were asked for before.

        Where the adapter gives a longer text more slots, k is that of the longest of these texts.

        Raises:
            LlinkError: E510 for an empty text, E511 for one that is longer than the encoder reads.
        """
        with self._shelf.hold(plugins.select(language)) as resident:
            return vectors.slots(self.reader, texts, resident)

    def embed(self, texts: Sequence[str], language: str | Selected) -> Tensor:
        """Unit vectors of texts in one language, for retrieval; errors as for ``slots``.

        ``[N, D]`` in the decoder's space or ``[N, H]`` in the encoder's, whichever the adapter retrieves in.
        """
        with self._shelf.hold(plugins.select(language)) as resident:
            return vectors.embed(self.reader, texts, resident)

    def embed_english(self, texts: Sequence[str], language: str | Selected) -> Tensor:
        """Unit vectors of English texts, to be compared with those that ``embed`` gives for the language; E510 for an empty one."""
        with self._shelf.hold(plugins.select(language)) as resident, self._switch.using(None):
            return vectors.english(self.reader, texts, resident)

    def rank(self, query: str, candidates: Sequence[str], language: str | Selected = AUTO) -> list[tuple[int, float]]:
        """English candidates in the order of their likeness to a foreign query: (index, cosine), best first.

        Raises:
            LlinkError: E510 for an empty query or candidate, and as ``generate``.
        """
        with self._shelf.hold(self._resolve(query, language)) as resident, self._switch.using(None):
            return vectors.rank(self.reader, query, candidates, resident)

    # Behind the doors

    def _ask(self, texts: Sequence[str], language: Named | Sequence[Named], task_options: TaskOptions) -> list[Asked]:
        """Each text with what it is read with."""
        one = language is None or isinstance(language, str | Selected)
        each: list[Any] = [language] * len(texts) if one else list(language or ())
        if len(each) != len(texts):
            raise LlinkError(
                "E516",
                f"There are {len(texts)} texts and {len(each)} languages.",
                "Give one for each text, or one for all.",
            )
        default = self._default.get()
        asked = [self.reader.ask(text, default if own == AUTO else own) for text, own in zip(texts, each, strict=True)]
        if any(own.wanted or own.passing is not None for own in asked):
            _ = task_options.words  # a wrong task is told whatever the texts are
        return asked

    def _resolve(self, text: str, language: str | Selected) -> Selected:
        return self.reader.resolve(text, (self._default.get() or AUTO) if language == AUTO else language)
