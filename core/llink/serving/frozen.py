"""The frozen models of an engine, and adapters opened for them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llink.adapter.files import MANIFEST, adapter_roots, check, check_language, find_adapter, load_bridge, read_manifest
from llink.adapter.lora import Lora
from llink.adapter.shared import has_adapter, has_shared
from llink.errors import LlinkError
from llink.interfaces import Decoder, Encoder
from llink.plugins import Selected
from llink.serving.shelf import AdapterSource, Resident
from llink.store.models import load_encoder


class FrozenPair:
    """The frozen decoder, and the frozen encoder or its name: it is then loaded with the first adapter.

    Tokenizers are not safe in several threads. ``encoding`` guards the encoder's, ``wording`` the decoder's. An adapter is
    never waited for under one of these locks, because opening it takes both.
    """

    def __init__(self, decoder: Decoder, encoder: Encoder | str, device: str, dtype: Any = None) -> None:
        self.decoder, self.device, self.dtype = decoder, device, dtype
        self.names = (encoder if isinstance(encoder, str) else encoder.name, decoder.name)
        """Of encoder and decoder."""
        self._encoder = None if isinstance(encoder, str) else encoder
        self.encoding, self.wording = threading.RLock(), threading.RLock()

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder; loaded on first use."""
        return self.load_encoder({})

    def load_encoder(self, options: Mapping[str, Any]) -> Encoder:
        """The encoder; where it is not loaded yet, with these options of its backend."""
        with self.encoding:
            if self._encoder is None:
                self._encoder = load_encoder(self.names[0], device=self.device, dtype=self.dtype, **options)
            return self._encoder

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The encoder's tokens of each text."""
        with self.encoding:
            return self.encoder.tokenize(texts)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of the decoder's tokens."""
        with self.wording:
            return self.decoder.detokenize(ids)

    def has(self, wanted: Selected) -> bool:
        """Whether such an adapter is installed for these models."""
        return has_adapter(wanted, *self.names)

    def has_shared(self) -> bool:
        """Whether the shared adapter is installed for these models."""
        return has_shared(*self.names)

    def folder(self, wanted: Selected, source: AdapterSource = None) -> Path:
        """The folder of an adapter that is given by folder, by name, or not at all.

        Raises:
            LlinkError: E301 when there is none.
        """
        spoken = wanted.language
        if not re.fullmatch(r"\w[\w-]*", spoken.code):
            raise LlinkError("E301", f"There is no adapter for a language with the code '{spoken.code}'.")
        named = isinstance(source, str) and re.fullmatch(r"\w[\w.@-]*", source)
        if named and not os.path.isfile(Path(str(source)) / MANIFEST):
            for root in adapter_roots(spoken):
                if os.path.isfile(root / str(source) / MANIFEST):
                    return root / str(source)
        return find_adapter(spoken, *self.names, source, wanted.adapter)

    def open(self, wanted: Selected, source: AdapterSource = None) -> Resident:
        """An adapter, read into memory.

        Raises:
            LlinkError: E301 no adapter, E310 damaged, E311 made for other models, E312 of another kind.
        """
        folder = self.folder(wanted, source)
        while True:
            manifest = read_manifest(folder)
            check_language(folder, manifest, wanted.language.code)
            encoder = self.load_encoder(manifest.encoder_options)
            with self.wording:
                check(folder, manifest, encoder, self.decoder)
            bridge = load_bridge(folder, manifest).to(self.device)
            lora = Lora.load(folder, self.decoder)
            # Where a new adapter was installed over this one meanwhile, bridge and LoRA may be of different ones.
            if read_manifest(folder) == manifest:
                return Resident(wanted.language, manifest, bridge, lora, folder, str(wanted))
