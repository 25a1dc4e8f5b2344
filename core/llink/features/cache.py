"""The feature cache: each text goes through the frozen encoder once, ever.

A cache is a folder of safetensors shards under ``$LLINK_HOME/features/<signature hash>/``. A shard holds the
text hashes, pooled vectors and ragged token states of up to ``SHARD`` texts; it is written to a temporary
file and renamed, so a killed run loses at most the shard in flight and goes on from there. Shards are
memory-mapped, and found through a sorted index on disk (``index.py``): what stays in memory is what was asked for
last. Any number of processes fill a cache at once. The ranks of one run share the texts out by their hash; where
two runs come to the same shard, a lock on its name leaves it to the first of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llink.errors import LlinkError
from llink.features.index import KEY, PLACE, RECORD, Index, Rows, shard_name, text_key, text_keys
from llink.home import ensure_folder, write_error
from llink.interfaces import Encoded, Encoder
from llink.progress import track

if TYPE_CHECKING:
    from accelerate import Accelerator

SHARD = 1024
BATCH_TOKENS = 2048
WINDOW = 1 << 18
"""How many texts are looked at in one go: bounds what ``ensure`` needs beside the texts."""
OPEN_SHARDS = 1 << 14
"""How many shards are mapped at once; Linux allows a process 65,530 maps."""
GATHER = 1 << 16
"""Rows that ``Vectors`` brings into memory at once when it goes over all of them."""


class FeatureCache:
    """Encoder features on disk, looked up by text.

    Args:
        root: folder of all caches (``$LLINK_HOME/features``).
        encoder: the encoder that fills it; its ``signature`` names the sub-folder.

    Raises:
        LlinkError: E112 when the folder cannot be written, E113 when the disk is full, E116 (in whatever reads)
            when a shard was damaged since it was opened.
    """

    def __init__(self, root: Path, encoder: Encoder) -> None:
        self.encoder = encoder
        self.folder = root / hashlib.sha256(encoder.signature.encode()).hexdigest()[:16]
        ensure_folder(self.folder)
        self._shard = lru_cache(OPEN_SHARDS)(self._open)
        self._index = Index(self.folder, self._records)
        self._index.refresh(sizes=True)

    def __contains__(self, text: str) -> bool:
        return bool(self._index.find(text_keys([text]))[1][0])

    def ensure(
        self,
        texts: Iterable[str],
        label: str = "Encoding",
        *,
        rank: int = 0,
        world: int = 1,
        accelerator: Accelerator | None = None,
    ) -> int:
        """Encode what is missing, longest texts last; returns how many texts this process encoded.

        Args:
            texts: may repeat themselves. A sequence that makes its texts when asked for them never stands in memory.
            rank, world: this process encodes the texts that fall to ``rank`` of ``world``; the caller waits for the
                others, and asks again (which takes up what they wrote).
            accelerator: gives rank and world, and waits; all of its processes must call this, and all find all texts.
        """
        texts = texts if isinstance(texts, Sequence) else list(texts)
        if accelerator:
            rank, world = accelerator.process_index, accelerator.num_processes
        encoded = 0
        with track(label, total=len(texts)) as bar:
            for start in range(0, len(texts), WINDOW):
                window = texts[start : start + WINDOW]
                self._index.refresh()
                mine = self._missing(window, rank, world)
                bar(len(window) - len(mine))
                encoded += self._encode([window[i] for i in mine], bar)
        if accelerator:
            accelerator.wait_for_everyone()
        self._index.refresh()
        return encoded

    def _missing(self, texts: Sequence[str], rank: int, world: int) -> list[int]:
        """Where those texts stand that are in no shard and fall to ``rank``, one place a text, in the order of keys."""
        keys, first = np.unique(text_keys(texts), return_index=True)
        # The share depends on the text alone: a rank that looks later, and sees more, divides up the same way.
        own = keys.view("<u4").reshape(-1, 4)[:, -1] % world == rank
        keys, first = keys[own], first[own]
        return first[~self._index.find(keys)[1]].tolist()

    def _encode(self, texts: list[str], bar: Callable[[int], None]) -> int:
        """Write shards of ``texts``; one that another process is at is left to it, and done only if that fails."""
        if not texts:
            return 0
        counts = [min(n, self.encoder.max_tokens) for n in self.encoder.count_tokens(texts)]
        order = sorted(range(len(texts)), key=counts.__getitem__)
        parts = [order[start : start + SHARD] for start in range(0, len(order), SHARD)]
        left: list[list[int]] = []
        encoded = 0
        for patience, todo in ((0, parts), (-1, left)):
            for part in todo:
                mine = [texts[i] for i in part]
                keys = text_keys(mine)
                path = self.folder / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:16]}.safetensors"
                lock = path.with_name(f".{path.name}.lock")
                try:
                    with FileLock(lock, timeout=patience):
                        if path.exists():
                            bar(len(part))
                        else:
                            self._write(path, keys, mine, [counts[i] for i in part], bar)
                            encoded += len(part)
                    lock.unlink(missing_ok=True)
                except Timeout:
                    left.append(part)
        return encoded

    def _write(self, path: Path, keys: Rows, texts: list[str], counts: list[int], bar: Callable[[int], None]) -> None:
        states, pooled, lengths = [], [], []
        for batch in token_batches(counts, BATCH_TOKENS):
            out: Encoded = self.encoder.encode([texts[i] for i in batch])
            states.append(out.states[out.mask].to("cpu", torch.bfloat16))
            pooled.append(out.pooled.to("cpu", torch.bfloat16))
            lengths += out.mask.sum(1).tolist()
            bar(len(batch))
        tensors = {
            "keys": torch.from_numpy(keys.view(np.uint8).reshape(-1, 16).copy()),
            "offsets": torch.tensor([0, *lengths]).cumsum(0),
            "pooled": torch.cat(pooled),
            "states": torch.cat(states),
        }
        temporary = path.with_name(f".{path.name}.tmp")  # under the shard's lock: nobody else writes it
        try:
            save_file(tensors, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise write_error(self.folder, error) from error

    def _open(self, shard: int) -> Shard:
        path = self.folder / shard_name(shard)
        try:
            return Shard.map(path)
        except SafetensorError as error:
            path.unlink(missing_ok=True)
            raise _lost(path) from error
        except FileNotFoundError as error:
            raise _lost(path) from error

    def _records(self, shard: int) -> Rows | None:
        """A shard's part of the index; None for a damaged one, which is dropped."""
        try:
            return self._shard(shard).records(shard)
        except LlinkError:  # E116
            return None

    def _places(self, texts: Sequence[str]) -> Rows:
        places = np.empty(len(texts), PLACE)
        for start in range(0, len(texts), WINDOW):
            window = texts[start : start + WINDOW]
            places[start : start + WINDOW], found = self._index.find(text_keys(window))
            if not found.all():
                raise KeyError(window[int(np.argmin(found))])
        return places

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """Sentence vectors ``[N, H]`` float32 of texts that ``ensure`` has seen."""
        return self.vectors(texts)[:]

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """As ``pooled``, for as many texts as there are: the vectors stay on disk until rows are asked for."""
        return Vectors(self, self._places(texts))

    def length(self, text: str) -> int:
        """Number of token states of a text that ``ensure`` has seen."""
        return self.lengths([text])[0]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """As ``length``, of many texts at once."""
        return self._places(texts)["length"].tolist()

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token states ``[B, T, H]`` float32, zero-padded, and their mask ``[B, T]``."""
        places = self._places(texts)
        lengths = torch.from_numpy(places["length"].astype(np.int64))
        width = int(lengths.max())
        out = np.zeros((len(texts), width, self.encoder.hidden_size), np.int16)
        for i, (shard, row, length) in enumerate(places.tolist()):
            found = self._shard(shard)
            out[i, :length] = found.states[found.offsets[row] : found.offsets[row + 1]]
        return _floats(out), torch.arange(width)[None] < lengths[:, None]

    def gather(self, places: Rows) -> Tensor:
        """Sentence vectors ``[N, H]`` float32 of N places."""
        out = np.empty((len(places), self.encoder.hidden_size), np.int16)
        for i, (shard, row, _) in enumerate(places.tolist()):
            out[i] = self._shard(shard).pooled[row]
        return _floats(out)


@dataclass(frozen=True)
class Shard:
    """A shard's tensors, mapped: N keys, offsets ``[N + 1]`` into the states, and bfloat16 vectors as int16."""

    keys: Rows
    offsets: Rows
    pooled: Rows
    states: Rows

    @classmethod
    def map(cls, path: Path) -> Shard:
        """Map the shard at ``path``; SafetensorError or OSError when it is not one."""
        with safe_open(path, framework="pt") as file:
            keys, offsets = file.get_tensor("keys").numpy(), file.get_tensor("offsets").numpy()
            pooled, states = (file.get_tensor(name).view(torch.int16).numpy() for name in ("pooled", "states"))
        return cls(keys, offsets, pooled, states)

    def records(self, shard: int) -> Rows:
        """Its part of the index, in the order of its rows."""
        records = np.zeros(len(self.keys), RECORD)
        records["key"] = np.ascontiguousarray(self.keys).view(KEY).reshape(-1)
        records["shard"], records["row"] = shard, np.arange(len(self.keys))
        records["length"] = np.diff(self.offsets)
        return records


@dataclass(frozen=True)
class Vectors:
    """Sentence vectors ``[N, H]`` that stay on disk: row numbers or a slice give them as a float32 tensor.

    Attributes:
        cache: holds them.
        places: where, ``[N]``; 16 bytes a text are all that is in memory.
        offset: ``[H]``, added to the rows that ``moved`` (``[N]`` bool, None for all) marks.
    """

    cache: FeatureCache
    places: Rows
    offset: Tensor | None = None
    moved: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """``[N, H]``, as a tensor has it."""
        return torch.Size((len(self), self.cache.encoder.hidden_size))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """``[R, H]`` float32."""
        chosen = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        found = self.cache.gather(self.places[chosen])
        if self.offset is None:
            return found
        return found + (self.offset if self.moved is None else self.moved[rows][:, None] * self.offset)

    def first(self, count: int) -> Vectors:
        """The first ``count`` of them."""
        moved = None if self.moved is None else self.moved[:count]
        return replace(self, places=self.places[:count], moved=moved)

    def mean(self) -> Tensor:
        """Their mean, ``[H]`` float32."""
        if len(self) <= GATHER:
            return self[:].mean(0)
        total = torch.zeros(self.shape[1], dtype=torch.float64)
        for start in range(0, len(self), GATHER):
            total += self[start : start + GATHER].sum(0, dtype=torch.float64)
        return (total / len(self)).float()

    def sample(self, limit: int = 2 * GATHER) -> Tensor:
        """All of them, or as many as ``limit`` at equal distances, ``[R, H]`` float32."""
        step = -(-len(self) // limit)
        return self[::step]


class MatchedMeans:
    """Cached features with the English texts moved so that both languages have the same mean.

    An encoder keeps languages apart by what is nearly one constant vector. With that taken out, a sentence and its
    translation lie close together from the start (Khmer projector on Amharic, R@1 of 800: 0.09 as they are, 0.29
    with the means matched), so what is learnt on English text holds for the foreign language too. The foreign side
    stays as it is, because it alone is read later.

    Args:
        cache: holds all texts.
        foreign, english: the training texts of each side; a text in both counts as foreign.
    """

    def __init__(self, cache: FeatureCache, foreign: Sequence[str], english: Sequence[str]) -> None:
        self.cache = cache
        self._english = set(english) - set(foreign)
        moved = sorted(self._english, key=text_key)
        self._pooled = cache.vectors(foreign).mean() - cache.vectors(moved).mean()
        self._states = self._state_mean(set(foreign)) - self._state_mean(moved)

    def _state_mean(self, texts: Iterable[str], limit: int = 1000) -> Tensor:
        states, mask = self.cache.states(nsmallest(limit, texts, key=text_key))
        return states[mask].mean(0)

    def _moved(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([text in self._english for text in texts])

    def length(self, text: str) -> int:
        """As ``FeatureCache.length``."""
        return self.cache.length(text)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """As ``FeatureCache.lengths``."""
        return self.cache.lengths(texts)

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """As ``FeatureCache.pooled``, means matched."""
        return self.vectors(texts)[:]

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """As ``FeatureCache.vectors``, means matched."""
        return replace(self.cache.vectors(texts), offset=self._pooled, moved=self._moved(texts))

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As ``FeatureCache.states``, means matched."""
        states, mask = self.cache.states(texts)
        return states + (self._moved(texts)[:, None] & mask)[..., None] * self._states, mask


Features = FeatureCache | MatchedMeans


def _lost(path: Path) -> LlinkError:
    return LlinkError("E116", f"The features in {path} are damaged or deleted.", "Run again: they are made anew.")


def _floats(patterns: Rows) -> Tensor:
    """bfloat16 bit patterns as float32."""
    return torch.from_numpy(patterns).view(torch.bfloat16).float()


def token_batches(counts: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Consecutive indices whose padded size stays within ``budget`` tokens; ``counts`` is sorted."""
    batch: list[int] = []
    for index, count in enumerate(counts):
        if batch and (len(batch) + 1) * max(count, 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
