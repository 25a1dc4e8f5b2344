"""Requests of many threads, and the one worker that takes their rows through the decoder in fair turns."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
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
from llink.serving.running import Entry, Running, joinable

OPTIONS = tuple(
    (
        "bad_words_ids begin_suppress_tokens do_sample early_stopping epsilon_cutoff eta_cutoff "
        "exponential_decay_length_penalty length_penalty min_new_tokens min_p no_repeat_ngram_size num_beams "
        "renormalize_logits repetition_penalty sequence_bias suppress_tokens temperature top_k top_p typical_p"
    ).split()
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
        slots: those in the prompt, and tokens of the verbatim channel. raw: tokens that the foreign text would have in
            their place. Both where requests are ``counted``.
        ids: the answer so far, and when ``done`` all of it.
    """

    embeds: Tensor
    lora: Lora | None
    limit: int
    on_tokens: Callable[[], None] | None = None
    digits: Known | None = None
    loop_guard: bool = False
    slots: int = 0
    raw: int = 0
    ids: list[int] = field(default_factory=list)
    done: bool = False


@dataclass(frozen=True)
class TokenCount:
    """What answers took, in tokens of the decoder; counted on while they are made."""

    rows: list[Row] = field(default_factory=list)

    @property
    def prompt(self) -> int:
        """Of the prompts as the decoder read them, slots among them."""
        return sum(len(row.embeds) for row in self.rows)

    @property
    def slots(self) -> int:
        """Slots, and the tokens of the verbatim channel beside them."""
        return sum(row.slots for row in self.rows)

    @property
    def raw(self) -> int:
        """That the foreign texts would have cost in the place of ``slots``."""
        return sum(row.raw for row in self.rows)

    @property
    def answer(self) -> int:
        """Of the answers, ends of turn left out."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def cut(self) -> bool:
        """Whether an answer ended at its limit."""
        return any(len(row.ids) >= row.limit for row in self.rows)


_asking: ContextVar[tuple[str, TokenCount]] = ContextVar("asking", default=("", TokenCount()))


def counted() -> bool:
    """Whether this thread's requests are."""
    return bool(_asking.get()[0])


@contextmanager
def asking(client: str) -> Iterator[TokenCount]:
    """Within the block this thread's requests are the client's, which has its fair turn, and are counted."""
    usage = TokenCount()
    before = _asking.set((client, usage))
    try:
        yield usage
    finally:
        _asking.reset(before)


@dataclass(eq=False)
class Request:
    """Rows that are answered together.

    Attributes:
        options: those of transformers' ``generate``.
        deadline: of ``time.monotonic``. cancel: once set, nobody wants the answer.
        future: gives the ids of the rows in order.
        client: whose it is.
        alone: whether its rows go through the decoder with rows of like options only, from beginning to end.
        left: rows that no pass has begun with.
    """

    rows: Sequence[Row]
    options: dict[str, Any]
    deadline: float | None = None
    cancel: threading.Event | None = None
    future: Future[list[list[int]]] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.left = deque(self.rows)
        self.client, usage = _asking.get()
        if self.client:
            usage.rows.extend(self.rows)
        self.beams = self.options.get("num_beams", 1)
        self.alone = self.beams != 1
        # Beams are weighed by the length they may have, so their rows must agree on that too.
        limit = max(row.limit for row in self.rows) if self.beams > 1 else None
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
    """Puts rows of all requests through the decoder together; they join and leave at every token.

    Clients take turns, and so do the requests of one: whoever has fewest rows in the decoder is next. A row ends by
    itself, at its own limit or when it is given up, and a request when its last row does. Rows that fail together are
    run again one by one, so that an error stays with the request that caused it. Beam search has batches of its own, for
    which the others pause; so has everything where the decoder keeps more of a row than keys and values.

    Args:
        decoder: runs in the worker thread alone.
        switch: chooses the rows' LoRA.
        batch: rows in one pass.
        queue: rows that may wait.
    """

    def __init__(self, decoder: Decoder, switch: LoraSwitch, *, batch: int, queue: int = QUEUE) -> None:
        self._decoder, self._switch, self._batch, self._limit = decoder, switch, batch, queue
        self._joinable = joinable(decoder)
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self.closed = False
        self.batches = self.steps = self.swaps = self.running = 0
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
            request.alone |= not self._joinable
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
        self._worker, self.running = None, 0

    def _work(self) -> None:
        with torch.inference_mode():
            running = Running(self._decoder, self._switch)
            while True:
                with self._changed:
                    while not self._waiting and not running:
                        if self.closed or (not self._changed.wait(timeout=IDLE) and not self._waiting):
                            self._worker = None
                            return
                    joining = self._next(running.entries)
                if joining and joining[0][0].alone:
                    self._apart(joining)
                elif joining:
                    self._join(running, joining)
                del joining  # an idle worker keeps nobody's tensors
                if running:
                    self._step(running)

    def _next(self, entries: Sequence[Entry]) -> Batch:
        """Rows that join those in the decoder, as many as there is room for; or a batch that goes alone, and waits for none."""
        for request in [request for request in self._waiting if request.given_up()]:
            self._waiting.remove(request)
        turns = Counter(entry.request.client for entry in entries)
        chosen: Batch = []
        while self._waiting:
            # Of equals the first in the queue.
            request = min(self._waiting, key=lambda request: turns[request.client])
            if len(chosen) + (0 if request.alone else len(entries)) >= self._batch:
                break
            first = chosen[0][0] if chosen else request
            if request.alone != first.alone or (request.alone and request.kind != first.kind):
                break
            chosen.append((request, request.left.popleft()))
            turns[request.client] += 1
            self._waiting.remove(request)
            if request.left:
                self._waiting.append(request)  # its next rows wait their turn
        return chosen

    def _join(self, running: Running, rows: Batch) -> None:
        try:
            entries = running.join(rows)
        except BaseException as error:
            if len(rows) == 1:
                rows[0][0].fail(_explained(error, rows[0][0].options))
                return
            for row in rows:
                self._join(running, [row])
            return
        self.batches += 1
        now = {id(lora) for lora in running.loras}
        self.swaps += now != self._last
        self._last = now
        self._tell(running, entries)

    def _step(self, running: Running) -> None:
        self.steps += 1
        try:
            running.step()
        except BaseException as error:
            entries = running.entries
            running.clear()
            if len(entries) == 1:
                entries[0].request.fail(_explained(error, entries[0].request.options))
            for entry in entries if len(entries) > 1 else []:
                self._alone(entry)
            return
        self._tell(running, running.entries)

    def _alone(self, entry: Entry) -> None:
        """Go on with a row that was in the decoder when a pass failed, to its end."""
        running = Running(self._decoder, self._switch)
        self._join(running, [(entry.request, entry.row)])
        while running:
            self._step(running)

    def _tell(self, running: Running, entries: Sequence[Entry]) -> None:
        """Pass the new tokens on, and let go of rows that have had enough."""
        ends = self._decoder.stop_ids
        for entry in entries:
            request, row = entry.request, entry.row
            if self.closed:
                request.give_up()
            if request.given_up():
                continue
            if entry.token not in ends:
                row.ids.append(entry.token)
            row.done = entry.token in ends or len(row.ids) >= row.limit
            try:
                if row.on_tokens:
                    row.on_tokens()
            except BaseException as error:
                request.fail(error)
            if row.done:
                request.settle()
        running.keep([entry for entry in running.entries if not entry.row.done and not entry.request.future.done()])
        self.running = len(running)

    def _apart(self, batch: Batch) -> None:
        try:
            self._search(batch)
        except BaseException as error:
            requests = dict.fromkeys(request for request, _ in batch)
            if len(requests) == 1:
                batch[0][0].fail(_explained(error, batch[0][0].options))
                return
            for own in requests:
                self._apart([(request, row) for request, row in batch if request is own and not row.done])

    def _search(self, batch: Batch) -> None:
        """Answers to rows of like options from beginning to end; which beam wins is not known before."""

        def watch(ids: Tensor, *_: Any, **__: Any) -> Tensor:
            """True for each row that nobody waits for."""
            over = [request.given_up() or self.closed for request, _ in batch for _ in range(len(ids) // len(batch))]
            return torch.tensor(over, device=ids.device)

        self.batches += 1
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
            if self.closed:
                request.give_up()
            elif not request.given_up():
                row.ids, row.done = ids[: row.limit], True
                if row.on_tokens:
                    row.on_tokens()
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
