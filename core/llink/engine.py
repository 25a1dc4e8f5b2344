"""The engine: language adapters on one frozen decoder, used from Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from llink import plugins
from llink.adapter import Manifest, check, find_adapter, load_bridge, load_lora, read_manifest
from llink.bridge import Bridge
from llink.errors import LlinkError
from llink.interfaces import Decoder, Encoder, Language
from llink.models import load_decoder, load_encoder
from llink.prompt import Prompt, build, instruction_for
from llink.reading import answer_prompts, generate, in_batches, prompt_embeddings
from llink.registry import load_registry
from llink.script import check_script, detect
from llink.text import normalise

MAX_CHARS = 20_000
"""Longer text is refused: it is a document, and the slots hold a sentence or two."""
LONG = 256
"""Characters; adapters are trained on text up to here, longer text is translated sentence by sentence."""
BATCH = 16


@dataclass
class Resident:
    """An adapter in memory."""

    language: Language
    manifest: Manifest
    bridge: Bridge


class Engine:
    """One frozen encoder, one frozen decoder, any number of language adapters.

    Example:
        >>> engine = Engine.load()  # doctest: +SKIP
        >>> engine.generate("ខ្ញុំចូលចិត្តរៀន។", language="km", task="translate")  # doctest: +SKIP
    """

    def __init__(self, decoder: Decoder, encoder: str, *, device: str, dtype: Any = None) -> None:
        self.decoder = decoder
        self.device = device
        self._encoder_name, self._dtype = encoder, dtype
        self._encoder: Encoder | None = None
        self._residents: dict[str, Resident] = {}
        self._lora: Any = None

    @classmethod
    def load(
        cls, encoder: str | None = None, decoder: str | None = None, *, device: str = "auto", dtype: Any = None
    ) -> Engine:
        """Load the decoder; the encoder follows with the first adapter, which states how it is read.

        Args:
            encoder, decoder: registry names or local folders; the registry's defaults where not given.
            device: ``auto``, ``cpu``, ``cuda``, ``mps`` …
            dtype: ``float32``, ``bfloat16`` or None for what the device does best.

        Raises:
            LlinkError: E1xx when a model cannot be had, E507 for an unusable device.
        """
        default = load_registry().default
        place = pick_device(device)
        model = load_decoder(decoder or default.decoder, device=place, dtype=dtype)
        return cls(model, encoder or default.encoder, device=place, dtype=dtype)

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder; loaded on first use."""
        if self._encoder is None:
            self._encoder = load_encoder(self._encoder_name, device=self.device, dtype=self._dtype)
        return self._encoder

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the resident adapters."""
        return tuple(self._residents)

    def add(self, language: str, adapter: str | Path | None = None) -> None:
        """Make a language adapter resident.

        Args:
            language: code or name.
            adapter: its folder; without it the shipped or installed one for this pair of models.

        Raises:
            LlinkError: E201 unknown language, E301 no adapter, E310 damaged, E311 made for other models.
        """
        spoken = plugins.language(language)
        folder = find_adapter(spoken, self._encoder_name, self.decoder.name, adapter)
        manifest = read_manifest(folder)
        if self._encoder is None:
            self._encoder = load_encoder(
                self._encoder_name, device=self.device, dtype=self._dtype, **manifest.encoder_options
            )
        check(folder, manifest, self.encoder, self.decoder)
        bridge = load_bridge(folder, manifest).to(self.device)
        self._lora = load_lora(self.decoder, folder, spoken.code, self._lora)
        self._residents[spoken.code] = Resident(spoken, manifest, bridge)

    def resident(self, language: str) -> Resident:
        """The resident adapter of a language; added first where it is not resident yet."""
        code = plugins.language(language).code
        if code not in self._residents:
            self.add(code)
        return self._residents[code]

    def detect(self, text: str) -> str:
        """Code of the language that ``text`` is written in, by script; E502/E503 where that does not decide."""
        return detect(text, plugins.languages()).code

    @overload
    def generate(self, texts: str, language: str | None = ..., **options: Any) -> str: ...
    @overload
    def generate(self, texts: Sequence[str], language: str | None = ..., **options: Any) -> list[str]: ...
    def generate(
        self,
        texts: str | Sequence[str],
        language: str | None = "auto",
        *,
        task: str | None = "translate",
        instruction: str | None = None,
        max_new_tokens: int = 128,
        **options: Any,
    ) -> str | list[str]:
        """English answers about foreign texts, greedy, in the order of ``texts``.

        Args:
            texts: one text or many.
            language: code or name; ``auto`` goes by script; None leaves the decoder untouched and takes
                ``texts`` as the user's message.
            task: ``translate``, ``summarize``, ``title``, ``keypoints`` or ``qa``.
            instruction: a free instruction in English instead of a task.
            options: passed on to transformers' ``generate``.

        Raises:
            LlinkError: E501 unknown task, E502/E503/E504 script, E510 empty text, E511 too long, E3xx adapter.
        """
        single = isinstance(texts, str)
        rows = [texts] if isinstance(texts, str) else list(texts)
        if language is None:
            answers = self._bare(rows, max_new_tokens, options)
        else:
            wanted = instruction_for(task, instruction)
            split = instruction is None and task == "translate"
            answers = self._answer(rows, language, wanted, split, max_new_tokens, options)
        return answers[0] if single else answers

    def slots(self, texts: Sequence[str], language: str) -> Tensor:
        """The K slots ``[N, K, D]`` of texts in one language."""
        resident = self.resident(language)
        with torch.inference_mode():
            encoded = self.encoder.encode([resident.language.normalise(t) for t in texts])
            device = resident.bridge.reserved.device
            return resident.bridge(
                encoded.pooled.to(device).float(), encoded.states.to(device).float(), encoded.mask.to(device)
            )

    def embed(self, texts: Sequence[str], language: str) -> Tensor:
        """Aligned unit vectors ``[N, D]`` of texts in one language, for retrieval."""
        resident = self.resident(language)
        with torch.inference_mode():
            encoded = self.encoder.encode([resident.language.normalise(t) for t in texts])
            return resident.bridge.aligned(encoded.pooled.to(resident.bridge.reserved.device).float())

    def prompt(self, instruction: str, language: str) -> Prompt:
        """The prompt of an instruction with the language's number of slots."""
        return build(self.decoder, instruction, slots=self.resident(language).bridge.slots)

    @contextmanager
    def using(self, language: str | None) -> Iterator[None]:
        """Within the block the decoder carries the language's LoRA; None: the untouched decoder."""
        if language is not None:
            self.resident(language)
        if self._lora is None:
            yield
        elif language is None:
            with self._lora.disable_adapter():
                yield
        else:
            self._lora.set_adapter(plugins.language(language).code, inference_mode=True)
            yield

    def _bare(self, rows: list[str], max_new_tokens: int, options: dict[str, Any]) -> list[str]:
        answers = []
        with self.using(None):
            for part in in_batches(len(rows), BATCH):
                prompts = [build(self.decoder, text) for text in rows[part]]
                answers += answer_prompts(self.decoder, prompts, max_new_tokens, **options)
        return answers

    def _answer(
        self,
        rows: list[str],
        language: str,
        instruction: str,
        split: bool,
        max_new_tokens: int,
        options: dict[str, Any],
    ) -> list[str]:
        """Every text as one or more pieces, pieces grouped by language, answers put together in order."""
        pieces: dict[str, list[tuple[int, str]]] = {}
        for row, text in enumerate(rows):
            if len(text) > MAX_CHARS:
                raise LlinkError("E511", f"The text has {len(text):,} characters; {MAX_CHARS:,} is the limit.",
                                 "Pass it sentence by sentence, one a line.")  # fmt: skip
            if not normalise(text):
                raise LlinkError("E510", "The text is empty.", "Give a sentence.")
            spoken = plugins.language(self.detect(text) if language == "auto" else language)
            if language != "auto":
                check_script(text, spoken)
            self.resident(spoken.code)  # the adapter states how the encoder is read, so it comes first
            for piece in self._pieces(text, spoken, split):
                pieces.setdefault(spoken.code, []).append((row, piece))
        parts: list[list[str]] = [[] for _ in rows]
        for code, jobs in pieces.items():
            prompt = self.prompt(instruction, code)
            with self.using(code), torch.inference_mode():
                for part in in_batches(len(jobs), BATCH):
                    slots = self.slots([piece for _, piece in jobs[part]], code)
                    embeds = prompt_embeddings(self.decoder, prompt, slots, slots.device)
                    answers = generate(self.decoder, embeds, None, max_new_tokens, **options)
                    for (row, _), answer in zip(jobs[part], answers, strict=True):
                        parts[row].append(answer)
        return [" ".join(answers) for answers in parts]

    def _pieces(self, text: str, spoken: Language, split: bool) -> list[str]:
        text = text.strip()
        pieces = spoken.sentences(text) if split and (len(text) > LONG or "\n" in text) else [text]
        pieces = [spoken.normalise(piece) for piece in pieces]
        counts = self.encoder_tokens(pieces)
        if not any(counts):
            raise LlinkError("E510", "The encoder has no token for anything in the text.", "Give a sentence.")
        for piece, count in zip(pieces, counts, strict=True):
            if count > self.encoder.max_tokens:
                raise LlinkError(
                    "E511", f"A passage of {len(piece):,} characters is {count} encoder tokens; {self.encoder.max_tokens} is the limit.",
                    "Cut it into sentences, one a line.",
                )  # fmt: skip
        return [piece for piece, count in zip(pieces, counts, strict=True) if count]

    def encoder_tokens(self, texts: Sequence[str]) -> list[int]:
        """Encoder tokens of each text."""
        return self.encoder.count_tokens(texts)


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
