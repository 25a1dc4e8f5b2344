"""Where each text of the feature cache lies: sorted segments on disk, memory-mapped, and the newest rows in memory.

A segment is a file ``<hash>.index``: the shards it covers, then one ``RECORD`` a text, sorted by key. Every
``FRESH`` new shards become a segment, which takes up all those that are not larger than itself, so that there are
about as many as the cache's size has binary digits, and no more than a block of each is ever in memory. Segments
are made from the shards alone: one that is lost, or does not fit the shards any more, is made anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from llink.home import write_error

KEY = np.dtype("S16")
"""The first 16 bytes of a text's sha256; numpy compares them byte by byte."""
PLACE = np.dtype([("shard", "<u8"), ("row", "<u4"), ("length", "<u4")])
"""A shard's name as a number, a row of it, and the text's number of token states."""
RECORD = np.dtype([("key", KEY), *PLACE.descr])
SHARD_SIZE = np.dtype([("shard", "<u8"), ("bytes", "<u8")])

FRESH = 64
BLOCK = 1 << 17

Rows = np.ndarray[Any, np.dtype[Any]]


def text_key(text: str) -> bytes:
    """16 bytes that name a text."""
    return hashlib.sha256(text.encode("utf-8")).digest()[:16]


def text_keys(texts: Iterable[str]) -> Rows:
    """The keys of N texts, as an array ``[N]`` of ``KEY``."""
    return np.frombuffer(bytearray().join(map(text_key, texts)), KEY)


@dataclass(frozen=True)
class Segment:
    """Records ``[N]`` sorted by key, and the shards that they cover."""

    records: Rows
    shards: Rows
    path: Path | None = None
    """None where it is in memory."""

    @classmethod
    def of(cls, records: Rows, shards: Rows) -> Segment:
        """A segment in memory of records in any order; of those with one key the first stays."""
        _, first = np.unique(records["key"], return_index=True)
        return cls(records[first], shards)

    @classmethod
    def read(cls, path: Path) -> Segment:
        """Map the segment at ``path``."""
        with path.open("rb") as file:
            shards = np.load(file)
            return cls(np.memmap(path, RECORD, "r", file.tell()), shards, path)


class Index:
    """Finds texts of a folder of shards by key.

    Args:
        folder: of the shards; segments are kept in it too.
        read: the records of a shard's texts, or None for one that is damaged and was dropped.
    """

    def __init__(self, folder: Path, read: Callable[[int], Rows | None]) -> None:
        self.folder, self._read = folder, read
        self._segments: list[Segment] = []
        self._fresh = _nothing()
        self._sizes: dict[int, int] = {}

    def find(self, keys: Rows) -> tuple[Rows, Rows]:
        """The ``PLACE`` of each of N keys, and whether it is there, both ``[N]``."""
        places, found = np.zeros(len(keys), PLACE), np.zeros(len(keys), bool)
        order = np.argsort(keys) if len(keys) > 1 else np.arange(len(keys))  # neighbours share pages of the map
        for segment in (self._fresh, *self._segments):
            todo = order[~found[order]]
            if not len(todo) or not len(segment.records):
                continue
            at = np.searchsorted(segment.records["key"], keys[todo])
            at[at == len(segment.records)] = 0
            near = segment.records[at]
            hit = near["key"] == keys[todo]
            found[todo[hit]] = True
            for field in PLACE.names or ():
                places[field][todo[hit]] = near[field][hit]
        return places, found

    def refresh(self, *, sizes: bool = False) -> None:
        """Take up what is on disk by now, from this process and others.

        Args:
            sizes: also compare the size of each shard with that at the time it was indexed.
        """
        self._load()  # before the listing: a shard is there before any segment that covers it
        present = self._present(sizes)
        kept = []
        for segment in self._segments:
            if all(_fits(present, *row) for row in segment.shards.tolist()):
                kept.append(segment)
            elif segment.path:
                segment.path.unlink(missing_ok=True)
        self._segments = kept
        covered = {shard for segment in kept for shard in segment.shards["shard"].tolist()}
        held = self._fresh.shards
        stay = np.array([s not in covered and _fits(present, s, size) for s, size in held.tolist()], bool)
        if not stay.all():
            held = held[stay]
            records = self._fresh.records
            self._fresh = Segment(records[np.isin(records["shard"], held["shard"])], held)
        new = sorted(set(present) - covered - set(held["shard"].tolist()))
        for start in range(0, len(new), FRESH):
            self._take(new[start : start + FRESH])
            if len(self._fresh.shards) >= FRESH:
                self._flush()

    def _present(self, sizes: bool) -> dict[int, int | None]:
        """The shards in the folder, with their sizes where asked for."""
        present: dict[int, int | None] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if (shard := shard_number(entry.name)) is not None:
                    try:
                        present[shard] = entry.stat().st_size if sizes else None
                    except FileNotFoundError:  # dropped by another process a moment ago
                        continue
        return present

    def _load(self) -> None:
        """Map the segments that are on disk; those that another process has merged into a larger one are let go."""
        mapped = {segment.path: segment for segment in self._segments}
        while True:
            paths = sorted(self.folder.glob("*.index"))
            try:
                self._segments = [mapped.get(path) or Segment.read(path) for path in paths]
                return
            except FileNotFoundError:  # merged between the listing and the reading
                continue
            except (ValueError, EOFError, OSError):
                for path in paths:
                    _drop_if_damaged(path)

    def _take(self, shards: Sequence[int]) -> None:
        """Add shards to the rows in memory."""
        parts, sizes = [self._fresh.records], self._fresh.shards.tolist()
        for shard in shards:
            records = self._read(shard)
            if records is None:
                continue
            parts.append(records)
            sizes.append((shard, (self.folder / shard_name(shard)).stat().st_size))
        self._fresh = Segment.of(np.concatenate(parts), np.array(sizes, SHARD_SIZE))

    def _flush(self) -> None:
        """Move the rows in memory into a segment; one process at a time, so that none does another's work again."""
        with FileLock(self.folder / ".index.lock"):
            self._load()
            covered = {shard for segment in self._segments for shard in segment.shards["shard"].tolist()}
            if not covered.issuperset(self._fresh.shards["shard"].tolist()):
                parts, size = [self._fresh], len(self._fresh.records)
                for segment in sorted(self._segments, key=lambda s: len(s.records)):
                    if len(segment.records) <= size:
                        parts.append(segment)
                        size += len(segment.records)
                merge(parts, self.folder)
                for segment in parts:
                    if segment.path:
                        segment.path.unlink(missing_ok=True)
                self._load()
        self._fresh = _nothing()


def merge(parts: Sequence[Segment], folder: Path) -> None:
    """Write a segment of all records of ``parts``, block by block; of those with one key that of the first part stays."""
    shards = np.unique(np.concatenate([part.shards for part in parts]))
    name = hashlib.sha256(shards.tobytes()).hexdigest()[:16]
    temporary = folder / f".{name}-{os.getpid()}.index.tmp"
    longest = max((part.records for part in parts), key=len)
    ends = [longest["key"][n] for n in range(BLOCK, len(longest), BLOCK)]
    done = [0] * len(parts)
    try:
        with temporary.open("wb") as file:
            np.save(file, shards)
            for end in [*ends, None]:
                block = []
                for n, part in enumerate(parts):
                    keys = part.records["key"]
                    upto = len(keys) if end is None else int(np.searchsorted(keys, end))
                    block.append(part.records[done[n] : upto])
                    done[n] = upto
                file.write(Segment.of(np.concatenate(block), shards).records.tobytes())
        os.replace(temporary, folder / f"{name}.index")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(folder, error) from error


def shard_name(shard: int) -> str:
    """The file name of a shard."""
    return f"{shard:016x}.safetensors"


def shard_number(name: str) -> int | None:
    """The shard that a file name stands for, None for any other file."""
    stem, _, suffix = name.partition(".")
    try:
        return int(stem, 16) if suffix == "safetensors" and len(stem) == 16 else None
    except ValueError:
        return None


def _nothing() -> Segment:
    return Segment(np.zeros(0, RECORD), np.zeros(0, SHARD_SIZE))


def _fits(present: dict[int, int | None], shard: int, size: int) -> bool:
    return shard in present and present[shard] in (None, size)


def _drop_if_damaged(path: Path) -> None:
    try:
        Segment.read(path)
    except FileNotFoundError:
        pass
    except (ValueError, EOFError, OSError):
        path.unlink(missing_ok=True)
