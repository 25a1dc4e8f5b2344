"""Resident adapters within a budget, and what was computed with them."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from llink.adapter.bridge import Bridge
from llink.adapter.files import Manifest
from llink.adapter.lora import Lora
from llink.errors import LlinkError, unknown_name
from llink.interfaces import Language
from llink.plugins import Selected
from llink.serving.scheduler import closed, late

_serials = count()
AdapterSource = str | Path | None
"""Where an adapter comes from, as the user gave it; None for the shipped or installed one."""


@dataclass(eq=False)
class Resident:
    """An adapter in memory. A request holds one of these, so its slots and its LoRA are of the same adapter."""

    language: Language
    manifest: Manifest
    bridge: Bridge
    lora: Lora
    folder: Path
    key: str = ""
    """What it is called on the shelf: ``km``, ``km@paper``."""
    users: int = 0
    serial: int = field(default_factory=lambda: next(_serials))
    bytes: int = 0
    """Memory of bridge and LoRA."""

    def __post_init__(self) -> None:
        self.key = self.key or self.language.code
        self.bytes = self.lora.bytes + sum(t.nbytes for t in self.bridge.state_dict().values())


class Shelf:
    """Adapters by language code or ``CODE@NAME``, the least recently used one dropped when a budget is exceeded.

    What is in use is never dropped. A thread that holds no adapter waits for room; one that holds some is refused
    instead, or two of them could wait for each other. Safe to use from several threads.

    Args:
        open: reads an adapter from its source into memory.
        max_resident: how many adapters; None for no limit.
        max_bytes: how much memory of adapters; None for no limit.
    """

    def __init__(
        self,
        open: Callable[[Selected, AdapterSource], Resident],
        max_resident: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self._read, self._closed = open, False
        self.max_resident, self.max_bytes = max_resident, max_bytes
        self.sources: dict[str, AdapterSource] = {}
        """Every language that was added, resident or dropped for room, and where it comes back from."""
        self._residents: OrderedDict[str, Resident] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._edits: Counter[str] = Counter()
        self._holders: Counter[int] = Counter()
        self._changed = threading.Condition()
        self._reading = threading.RLock()
        self.counts: Counter[str] = Counter(hits=0, loads=0, evictions=0)

    def __iter__(self) -> Iterator[str]:
        with self._changed:
            return iter(list(self._residents))

    def close(self) -> None:
        """From now on nothing is added or held: E513."""
        self._closed = True

    def open(self, wanted: Selected, source: AdapterSource) -> Resident:
        """An adapter read from its source; E513 once the shelf is closed, and what reading it raises."""
        if self._closed:
            raise closed()
        return self._read(wanted, source)

    def add(self, wanted: Selected, source: AdapterSource = None) -> None:
        """Make an adapter the one of its key, at once; an older one leaves when its last request is done.

        Raises:
            LlinkError: E512 when it does not fit the budget beside what is in use, and those of ``open``.
        """
        resident = self.open(wanted, source)
        code = resident.key
        with self._changed:
            if not self._room(code, resident.bytes):
                raise self._full(resident.language.name, resident.bytes)
            self._place(resident)
            self.sources[code] = source
            self._edits[code] += 1

    def must_have(self, wanted: Selected) -> Selected:
        """``wanted``; E515 where it was never added."""
        if str(wanted) not in self.sources:
            raise unknown_name("E515", "language on the shelf", str(wanted), list(self.sources))
        return wanted

    def drop(self, wanted: Selected) -> None:
        """Forget an adapter; requests that hold it end as they began."""
        with self._changed:
            self._edits[str(wanted)] += 1
            self._residents.pop(str(wanted), None)
            self._changed.notify_all()
            self.sources.pop(str(wanted), None)

    @contextmanager
    def hold(self, wanted: Selected, deadline: float | None = None) -> Iterator[Resident]:
        """An adapter for as long as the block lasts; read from its source where it is not resident.

        Args:
            deadline: of ``time.monotonic``, for waiting until there is room.

        Raises:
            LlinkError: E512 when there is no room, E514 when there was none in time, and those of ``open``.
        """
        if self._closed:
            raise closed()
        thread = threading.get_ident()
        resident = self._acquire(wanted, deadline, may_wait=not self._holders[thread])
        with self._changed:
            self._holders[thread] += 1
        try:
            yield resident
        finally:
            with self._changed:
                resident.users -= 1
                self._holders[thread] -= 1
                if not self._holders[thread]:
                    del self._holders[thread]
                self._changed.notify_all()

    def hold_all(
        self, wanted: Iterable[Selected | None], held: ExitStack, deadline: float | None = None
    ) -> dict[str, Resident]:
        """Adapters by key, held until ``held`` is closed: all of them, or as many as there is room for.

        Args:
            wanted: None stands for the bare decoder, which is no adapter.

        Raises:
            LlinkError: as ``hold``; E512 where there is no room for one.
        """
        residents: dict[str, Resident] = {}
        for key, own in {str(own): own for own in wanted if own}.items():
            try:
                residents[key] = held.enter_context(self.hold(own, deadline))
            except LlinkError as error:
                if error.code != "E512" or not residents:
                    raise
        return residents

    def _acquire(self, wanted: Selected, deadline: float | None, may_wait: bool) -> Resident:
        code = str(wanted)
        while True:
            with self._changed:
                while not (resident := self._take(code)) and not self._room(code, size := self._sizes.get(code, 0)):
                    if not may_wait or not self._fits([size]):
                        raise self._full(wanted.called, size)
                    if not self._changed.wait(None if deadline is None else max(deadline - time.monotonic(), 0)):
                        raise late()
                if resident:
                    return resident
            with self._reading:  # one thread reads it, the others find it there
                with self._changed:
                    if resident := self._take(code):
                        return resident
                    source, edits = self.sources.get(code), self._edits[code]
                fresh = self.open(wanted, source)
                with self._changed:
                    self._sizes[code] = fresh.bytes
                    # If another one was put there meanwhile, this one is out of date.
                    if self._edits[code] == edits and self._room(code, fresh.bytes):
                        self._place(fresh)
                        self.sources.setdefault(code, source)
                        fresh.users += 1
                        return fresh

    def _take(self, code: str) -> Resident | None:
        resident = self._residents.get(code)
        if resident is not None:
            self._residents.move_to_end(code)
            self.counts["hits"] += 1
            resident.users += 1
        return resident

    def _place(self, resident: Resident) -> None:
        """Put an adapter on the shelf and drop what it takes to keep the budget."""
        code = resident.key
        self._residents.pop(code, None)
        for old in list(self._residents.values()):
            if self._fits([resident.bytes, *(r.bytes for r in self._residents.values())]):
                break
            if not old.users:
                del self._residents[old.key]
                self.counts["evictions"] += 1
        self._residents[code] = resident
        self.counts["loads"] += 1
        self._changed.notify_all()

    def _room(self, code: str, size: int) -> bool:
        """Whether an adapter of ``size`` bytes fits beside the other languages' that are in use."""
        return self._fits([size, *(r.bytes for c, r in self._residents.items() if c != code and r.users)])

    def _fits(self, sizes: list[int]) -> bool:
        few = self.max_resident is None or len(sizes) <= self.max_resident
        return few and (self.max_bytes is None or sum(sizes) <= self.max_bytes)

    def _full(self, name: str, size: int) -> LlinkError:
        return LlinkError(
            "E512", f"There is no room for the {name} adapter" + (f" ({size / 1e6:.1f} MB)." if size else "."),
            "Raise max_resident or max_bytes, or remove a language.",
        )  # fmt: skip

    def stats(self) -> dict[str, Any]:
        """Bytes and users of each adapter, and how often one was used, loaded and dropped."""
        with self._changed:
            adapters = {c: {"bytes": r.bytes, "users": r.users} for c, r in self._residents.items()}
            return {"adapters": adapters, "bytes": sum(a["bytes"] for a in adapters.values()), **self.counts}


class BoundedCache:
    """Values by key, the least recently used ones dropped beyond a number of bytes. Safe from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter(hits=0, misses=0)

    def get(self, key: Hashable) -> Any:
        """The value, or None; counted as a hit or a miss."""
        with self._lock:
            found = self._values.get(key)
            self.counts["misses" if found is None else "hits"] += 1
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a value of ``size`` bytes; one over the whole budget is not kept."""
        with self._lock:
            if size > self.max_bytes:
                return
            self.bytes += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, size)
            while self.bytes > self.max_bytes:
                self.bytes -= self._values.popitem(last=False)[1][1]

    def stats(self) -> dict[str, int]:
        """Entries, their bytes, hits and misses."""
        with self._lock:
            return {"entries": len(self._values), "bytes": self.bytes, **self.counts}
