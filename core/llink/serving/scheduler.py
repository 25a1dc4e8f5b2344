"""Requests of many threads, run through the decoder in shared batches by one worker."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import LogitsProcessor

from llink.adapter.loops import LoopGuard
from llink.adapter.lora import Lora, LoraSwitch
from llink.adapter.slots import generate_ids, pad_left
from llink.errors import LlinkError, unknown_name
from llink.interfaces import Decoder
from llink.serving.constrained import Known, KnownDigits

OPTIONS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "do_sample",
    "early_stopping",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "length_penalty",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram_size",
    "num_beams",
    "renormalize_logits",
    "repetition_penalty",
    "sequence_bias",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
)
"""Options of transformers' ``generate`` that a request may bring; the others are the engine's to set."""
QUEUE = 1024
"""Rows that may wait; a request over that is refused at once rather than served late."""
IDLE = 1.0
"""Seconds after which a worker without work ends, so that an engine that is no longer used can be freed."""
LOOK = 0.05
"""Seconds between two looks at a request's ``cancel``."""


@dataclass(eq=False)
class Row:
    """One prompt on its way through the decoder.

    Attributes:
        embeds: ``[P, D]``, slots in place.
        lora: what the decoder reads it with; None for the bare decoder.
        limit: tokens the answer may have.
        on_tokens: called in the worker whenever ``ids`` has grown.
        digits: what digits may spell in the answer; None for anything.
        loop_guard: whether the answer is kept from repeating itself, see ``llink.adapter.loops``.
        ids: the answer so far, and when ``done`` all of it.
    """

    embeds: Tensor
    lora: Lora | None
    limit: int
    on_tokens: Callable[[], None] | None = None
    digits: Known | None = None
    loop_guard: bool = False
    ids: list[int] = field(default_factory=list)
    done: bool = False


@dataclass(eq=False)
class Request:
    """Rows that are answered together.

    Attributes:
        options: for ``generate_ids``; only rows of like options share a pass.
        deadline: of ``time.monotonic``. cancel: once set, nobody wants the answer.
        future: gives the ids of the rows in order.
        left: rows that no pass has begun with.
    """

    rows: Sequence[Row]
    options: dict[str, Any]
    deadline: float | None = None
    cancel: threading.Event | None = None
    future: Future[list[list[int]]] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.left = deque(self.rows)
        # Beams are weighed by the length they may have, so their rows must agree on that too.
        limit = max(row.limit for row in self.rows) if self.options.get("num_beams", 1) > 1 else None
        self.kind = repr((sorted(self.options.items()), limit))

    @property
    def patience(self) -> float | None:
        """Seconds until ``given_up`` is to be asked again; None for never."""
        left = [] if self.deadline is None else [max(self.deadline - time.monotonic(), 0.0)]
        return min([*left, LOOK], default=None) if self.cancel else min(left, default=None)

    def given_up(self) -> bool:
        """Whether nobody waits for it any more; its future says so then."""
        if self.cancel is not None and self.cancel.is_set():
            self.give_up()
        elif self.deadline is not None and time.monotonic() >= self.deadline:
            self.fail(late())
        return self.future.done()

    def give_up(self) -> None:
        """Let it go; the worker stops at its next token."""
        self.fail(LlinkError("E514", "The request was cancelled."))

    def fail(self, error: BaseException) -> None:
        """End it with an error, if it has not ended yet."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def settle(self) -> None:
        """End it if all its rows are done."""
        if all(row.done for row in self.rows):
            with suppress(InvalidStateError):
                self.future.set_result([row.ids for row in self.rows])

    def result(self) -> list[list[int]]:
        """Wait for the ids of the rows.

        Raises:
            LlinkError: E514 when its time is up or it was cancelled.
            Exception: whatever went wrong in it.
        """
        try:
            while not wait([self.future], self.patience).done and not self.given_up():
                pass
            return self.future.result()
        finally:
            self.give_up()  # after a Ctrl-C; otherwise it has ended


@dataclass(frozen=True)
class Terms:
    """How a request is decoded and how long it may take; the fields are those of ``Request``."""

    options: dict[str, Any]
    deadline: float | None
    cancel: threading.Event | None

    @classmethod
    def of(cls, options: dict[str, Any], timeout: float | None, cancel: threading.Event | None) -> Terms:
        """From arguments of ``Engine.generate``; E518 for an option that a request may not bring, or a wrong timeout."""
        for name in options:
            if name not in OPTIONS:
                raise unknown_name("E518", "option", name, OPTIONS)
        if timeout is not None and not timeout >= 0:
            raise LlinkError("E518", f"timeout is {timeout}.", "Give seconds, or None for no limit.")
        # Locks cannot wait for longer than some years.
        deadline = None if timeout is None or timeout > threading.TIMEOUT_MAX / 2 else time.monotonic() + timeout
        return cls(options, deadline, cancel)

    def request(self, rows: Sequence[Row]) -> Request:
        """A request of rows on these terms."""
        return Request(rows, self.options, self.deadline, self.cancel)


def late() -> LlinkError:
    """What a request fails with whose time is up."""
    return LlinkError("E514", "The answer took longer than its timeout.", "Allow more time, or ask for fewer tokens.")


Batch = list[tuple[Request, Row]]


class Scheduler:
    """Batches rows of like options: first come first served, and a request of many rows takes turns with the others.

    A row ends by itself, at its own limit or when it is given up, and a request when its last row does. A batch that
    fails is run again request by request, so that an error stays with the request that caused it.

    Args:
        decoder: runs in the worker thread alone.
        switch: chooses the rows' LoRA.
        batch: rows in one pass.
        queue: rows that may wait.
    """

    def __init__(self, decoder: Decoder, switch: LoraSwitch, *, batch: int, queue: int = QUEUE) -> None:
        self._decoder, self._switch, self._batch, self._limit = decoder, switch, batch, queue
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self.closed = False
        self.batches = self.swaps = 0
        self._last: set[int] = {id(None)}
        _schedulers.add(self)

    def __len__(self) -> int:
        """Rows that wait."""
        with self._changed:
            return sum(len(request.left) for request in self._waiting)

    def submit(self, request: Request) -> Request:
        """Queue a request; returns at once.

        Raises:
            LlinkError: E513 when the queue is full or closed.
        """
        with self._changed:
            if self.closed:
                raise closed()
            waiting = len(self)
            # A request that is larger than the queue can only ever go into an empty one.
            if waiting and waiting + len(request.rows) > self._limit:
                raise LlinkError(
                    "E513",
                    f"{waiting} texts are waiting already; {self._limit} is the limit.",
                    "Try again later, or load the engine with a larger max_queue.",
                )
            self._waiting.append(request)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="llink-decoder", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return request

    def close(self) -> None:
        """Cancel what waits, stop what runs at its next token, and let the worker end."""
        with self._changed:
            self.closed = True
            for request in self._waiting:
                request.give_up()
            self._waiting.clear()
            worker = self._worker
            self._changed.notify_all()
        if worker is not None and worker is not threading.current_thread():
            worker.join()

    def begin_anew(self) -> None:
        """Forget worker and requests of the process that this one was forked from."""
        self._changed = threading.Condition()
        self._waiting.clear()
        self._worker = None

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self.closed or (not self._changed.wait(timeout=IDLE) and not self._waiting):
                        self._worker = None
                        return
                batch = self._next()
            self._run(batch)
            del batch  # an idle worker keeps nobody's tensors

    def _next(self) -> Batch:
        """Rows of the oldest request, and of those behind it with the same options, up to a batch."""
        chosen: Batch = []
        for request in list(self._waiting):
            if request.given_up():
                self._waiting.remove(request)
            elif len(chosen) < self._batch and (not chosen or request.kind == chosen[0][0].kind):
                while request.left and len(chosen) < self._batch:
                    chosen.append((request, request.left.popleft()))
                self._waiting.remove(request)
                if request.left:
                    self._waiting.append(request)  # its next rows wait their turn
        return chosen

    def _run(self, batch: Batch) -> None:
        if not batch:
            return
        try:
            self._decode(batch)
        except BaseException as error:
            requests = dict.fromkeys(request for request, _ in batch)
            if len(requests) == 1:
                batch[0][0].fail(_explained(error, batch[0][0].options))
                return
            for own in requests:
                self._run([(request, row) for request, row in batch if request is own and not row.done])

    def _decode(self, batch: Batch) -> None:
        ends, beams = set(self._decoder.stop_ids), batch[0][0].options.get("num_beams", 1)

        def watch(ids: Tensor, *_: Any, **__: Any) -> Tensor:
            """Pass the new ids on; True for each row that has had enough."""
            if beams > 1:  # which of them will win is not known before the end
                over = [
                    request.given_up() or self.closed for request, _ in batch for _ in range(len(ids) // len(batch))
                ]
                return torch.tensor(over, device=ids.device)
            for (request, row), own in zip(batch, ids.tolist(), strict=True):
                if row.done:
                    continue
                row.ids = list(takewhile(lambda i: i not in ends, own[: row.limit]))
                row.done = own[-1] in ends or len(own) >= row.limit
                if row.on_tokens:
                    row.on_tokens()
                if row.done:
                    request.settle()
            over = [row.done or request.given_up() or self.closed for request, row in batch]
            return torch.tensor(over, device=ids.device)

        self.batches += 1
        now = {id(row.lora) for _, row in batch}
        self.swaps += now != self._last
        self._last = now
        embeds, mask = pad_left([row.embeds for _, row in batch])
        limit = max(row.limit for _, row in batch)
        digits = [row.digits for _, row in batch]
        rules: list[LogitsProcessor] = []
        if any(own is not None for own in digits):
            rules.append(KnownDigits(self._decoder, digits))
        if any(guarded := [row.loop_guard for _, row in batch]):
            rules.append(LoopGuard(self._decoder, guarded))
        with self._switch.using([row.lora for _, row in batch]):
            out = generate_ids(
                self._decoder,
                embeds,
                mask,
                limit,
                stopping_criteria=[watch],
                logits_processor=rules,
                **batch[0][0].options,
            )
        for (request, row), ids in zip(batch, out, strict=True):
            if self.closed and not row.done:
                request.give_up()
            elif not row.done and not request.given_up():
                row.ids, row.done = ids[: row.limit], True
                request.settle()


_schedulers: WeakSet[Scheduler] = WeakSet()


@atexit.register
def _end_workers() -> None:
    """A worker that is still within torch when the interpreter goes would abort the process.

    An answer is given out as soon as it is known, so its worker often is.
    """
    for scheduler in list(_schedulers):
        scheduler.close()


def _after_fork() -> None:
    """In a forked child: the worker stayed behind, and so did whoever held a lock; torch's own threads did too."""
    for scheduler in list(_schedulers):
        scheduler.begin_anew()
    if _schedulers and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def closed() -> LlinkError:
    """What an engine answers that was closed."""
    return LlinkError("E513", "The engine is closed.", "Load a new one.")


def _explained(error: BaseException, options: dict[str, Any]) -> BaseException:
    """Transformers' complaint about the value of an option as one of ours."""
    if options and isinstance(error, (ValueError, TypeError, ArithmeticError)):
        said = " ".join(str(error).split())[:200]
        return LlinkError("E518", f"The decoder cannot generate with {options}: {said}", "Change these options.")
    return error
