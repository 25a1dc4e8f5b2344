"""The folder of a training run: its log, what it took, its plot; each file whole at any moment, written by rank 0 alone."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from accelerate import Accelerator
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from llink.errors import LlinkError
from llink.home import atomic_write, read_json, sweep, write_error, write_json
from llink.recipe import Recipe, load_recipe
from llink.training import trackers
from llink.training.machine import environment, gpu_peak, process_peak
from llink.training.plot import LOG, PLOT, draw, read_log

TIMES = "time_and_memory.json"
KEEP_EVERY = 15.0
"""Seconds between two writes of ``time_and_memory.json``: what a kill can cost of it."""


_held: dict[Path, FileLock] = {}
"""The locks of the folders that this process trains in."""


def hold(out: Path) -> None:
    """Keep other processes out of a run folder until ``RunFolder`` is left, or this process ends; E404 if one is in it."""
    place = out.resolve()
    lock = _held.setdefault(place, FileLock(out / "checkpoints" / ".lock"))
    try:
        if not lock.is_locked:
            lock.acquire(timeout=0)
    except Timeout:
        del _held[place]
        raise LlinkError(
            "E404", f"Another process is training in {out}.", "Wait until it has ended, or choose another --out."
        ) from None
    except OSError as error:
        del _held[place]
        raise write_error(out, error) from error


def let_go(out: Path) -> None:
    """Undo ``hold``."""
    if lock := _held.pop(out.resolve(), None):
        lock.release()


def claim(recipe: Recipe, out: Path, resume: bool, accelerator: Accelerator) -> None:
    """Make the run folder on one rank, or take up the one that is there if it is the same recipe's."""
    if accelerator.is_main_process:
        _claim(recipe, out, resume)
    accelerator.wait_for_everyone()


def _claim(recipe: Recipe, out: Path, resume: bool) -> None:
    path = out / "recipe.yaml"
    if path.exists():
        if not resume:
            raise LlinkError("E404", f"{out} already holds a run.", "Go on with --resume, or choose another --out.")
        kept = load_recipe(path)
        if kept == recipe:
            hold(out)
            return
        # Stage C is at the end: until it has begun, it may be set anew.
        begun = any((out / name).exists() for name in ("adapter_c", "checkpoints/stage_c.safetensors"))
        if begun or kept.model_copy(update={"stage_c": recipe.stage_c}) != recipe:
            raise LlinkError(
                "E404", f"The run in {out} has another recipe.", "Use the same recipe and --set, or another --out."
            )
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        hold(out)
        for folder in (out, out / "checkpoints"):
            sweep(folder, 0)  # nobody else is writing there
        atomic_write(path, yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True, sort_keys=False))
    except OSError as error:
        raise LlinkError(
            "E404", f"The run folder {out} cannot be made ({error.strerror}).", "Choose another --out."
        ) from error


@dataclass
class Session:
    """One process's share of a run: from its start, or a ``--resume``, to its end.

    Attributes:
        began: date and time, UTC.
        outcome: ``running``, ``finished``, ``killed`` (as far as a later session can tell), or the error.
        seconds, parts: wall-clock in all and by part; dev losses and checkpoints count to the part they belong to.
        examples, tokens: by part, what training went through, all ranks together. An example's tokens are its prompt,
            slots included, and its target.
        process_bytes, gpu_bytes: the most memory of rank 0, of the machine and of its GPU.
        processes: number of ranks.
        environment: see ``llink.training.machine.environment``.
    """

    began: str
    outcome: str = "running"
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    process_bytes: int = 0
    gpu_bytes: int = 0
    processes: int = 1
    environment: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """Log, clock and trackers of a run, as a context manager that closes the books however the run ends.

    On leaving it writes ``time_and_memory.json`` and ``train.png`` and prints what the run took; it never raises an
    error of its own then. A SIGTERM, which schedulers send, ends the run in the same orderly way (status 143).

    Args:
        out: the folder; it exists.
        accelerator: says which rank writes; made with ``trackers.options`` where trackers are wanted.
        settings: the recipe, for the trackers.
    """

    def __init__(self, out: Path, accelerator: Accelerator, settings: Mapping[str, Any] | None = None) -> None:
        self.out, self.accelerator, self.settings = out, accelerator, settings or {}
        self.writes = accelerator.is_main_process
        self._start, self._kept = time.monotonic(), math.inf
        self._part: tuple[str, float] | None = None
        self._places = Places(read_log(out))
        self._earlier = _sessions(out / TIMES)
        self._session = Session(
            datetime.now(timezone.utc).isoformat(timespec="seconds"), processes=accelerator.num_processes
        )
        self._handler: Any = None

    def __enter__(self) -> RunFolder:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            self._handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        if self.writes:
            self._session.environment = environment()
            self._keep()
        if self.accelerator.log_with:
            trackers.start(self.accelerator, self.out, self.settings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        self._session.outcome = _outcome(error)
        if self.writes:
            try:
                self._keep()
                drawn = self._draw()
                print("\n".join([*report(self._all()), f"Log:    {self.out / LOG}, {drawn}{TIMES}"]), flush=True)
            except (LlinkError, OSError) as fault:
                print(f"What the run took cannot be kept: {fault}", flush=True)
        for tracker in self.accelerator.trackers:
            tracker.finish()
        let_go(self.out)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the seconds of the block towards ``part``, log them and print them at its end."""
        began = time.monotonic()
        self._part = part, began
        try:
            yield
        finally:
            seconds = round(time.monotonic() - began, 1)
            self._session.parts[part] = round(self._session.parts.get(part, 0) + seconds, 1)
            self._part = None
        self.log({"stage": part, "seconds": seconds})
        if self.writes:
            print(f"{part}: {seconds:.0f} s", flush=True)

    def seen(self, examples: int, tokens: int = 0) -> None:
        """Count what one step of the part at hand went through on this rank; the other ranks' share is as large."""
        for counts, number in ((self._session.examples, examples), (self._session.tokens, tokens)):
            if self._part and number:
                counts[self._part[0]] = counts.get(self._part[0], 0) + number * self._session.processes

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to ``metrics.jsonl`` and hand its numbers to the trackers.

        Args:
            row: ``stage``, ``step`` where it is about one, and numbers by name.
        """
        step = self._places(row)
        if self.accelerator.trackers:
            above = "/".join(str(row[key]) for key in ("stage", "dev") if key in row)
            numbers = {k: v for k, v in row.items() if k not in ("stage", "dev", "step") and not isinstance(v, str)}
            self.accelerator.log({f"{above}/{k}": v for k, v in numbers.items()}, step=step)
        if self.writes:
            append_row(self.out / LOG, row)
            if time.monotonic() - self._kept > KEEP_EVERY:
                self._keep()

    def _all(self) -> list[Session]:
        return [*self._earlier, self._session]

    def _keep(self) -> None:
        """Write ``time_and_memory.json``: the sum over all sessions, then each session."""
        self._kept = time.monotonic()
        own = self._session
        own.seconds = round(self._kept - self._start, 1)
        own.process_bytes, own.gpu_bytes = process_peak(), gpu_peak()
        parts = dict(own.parts)
        if self._part:
            name, began = self._part
            own.parts = {**parts, name: round(parts.get(name, 0) + self._kept - began, 1)}
        content = {**totals(self._all()), "sessions": [asdict(session) for session in self._all()]}
        own.parts = parts
        write_json(self.out / TIMES, content)

    def _draw(self) -> str:
        try:
            return f"{PLOT}, " if draw(self.out) else ""
        except LlinkError as error:
            print(f"{PLOT} is not drawn. {error.message} {error.hint}", flush=True)
            return ""


class Places:
    """Where a row of the log stands among the steps of all stages, one after another, as trackers want it.

    Args:
        rows: what the log has already.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self._bases: dict[str, int] = {}
        self._last = -1
        for row in rows:
            self(row)

    def __call__(self, row: Mapping[str, Any]) -> int:
        if "step" not in row:
            return max(self._last, 0)
        base = self._bases.setdefault(row["stage"], self._last + 1)
        self._last = max(self._last, base + int(row["step"]))
        return base + int(row["step"])


def totals(sessions: Sequence[Session]) -> dict[str, Any]:
    """Sums over the sessions: ``seconds``, ``parts``, ``examples_per_second`` and ``tokens_per_second`` by part, the
    largest ``process_bytes`` and ``gpu_bytes``."""
    parts, examples, tokens = Counter[str](), Counter[str](), Counter[str]()
    for name, total in (("parts", parts), ("examples", examples), ("tokens", tokens)):
        for session in sessions:
            total.update(getattr(session, name))  # which keeps a part of no time, as `+` would not

    def speed(counts: Counter[str]) -> dict[str, float]:
        return {part: round(n / parts[part], 2) for part, n in counts.items() if parts[part]}

    return {
        "seconds": round(sum(session.seconds for session in sessions), 1),
        "parts": {part: round(seconds, 1) for part, seconds in parts.items()},
        "examples_per_second": speed(examples),
        "tokens_per_second": speed(tokens),
        "process_bytes": max(session.process_bytes for session in sessions),
        "gpu_bytes": max(session.gpu_bytes for session in sessions),
    }


def report(sessions: Sequence[Session]) -> list[str]:
    """What a run took, in lines to print."""
    total = totals(sessions)
    whole = f"{total['seconds']:,.0f} s" + (f" in {len(sessions)} sessions" if len(sessions) > 1 else "")
    parts = ", ".join(f"{part} {seconds:,.0f}" for part, seconds in total["parts"].items())
    gpu = f", {total['gpu_bytes'] / 1e9:.1f} GB of GPU" if total["gpu_bytes"] else ""
    tokens = total["tokens_per_second"]
    speeds = [
        f"{part} {speed:,.1f} examples/s" + (f" of {tokens[part] / speed:,.0f} tokens" if part in tokens else "")
        for part, speed in total["examples_per_second"].items()
    ]
    lines = [
        f"Time:   {whole}" + (f": {parts}" if parts else ""),
        f"Memory: {total['process_bytes'] / 1e9:.1f} GB at most{gpu}",
    ]
    return lines + ([f"Speed:  {'; '.join(speeds)}"] if speeds else [])


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a log of JSON lines, numbers rounded; a line that a kill cut off is closed first."""
    with path.open("a", encoding="utf-8") as lines:
        if lines.tell() and not _ends_line(path):
            lines.write("\n")
        lines.write(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}) + "\n")


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


_SESSIONS = TypeAdapter(list[Session])


def _sessions(path: Path) -> list[Session]:
    """The sessions so far; what does not read as such is left behind, as it is only about what training took."""
    try:
        sessions = _SESSIONS.validate_python(read_json(path).get("sessions", []))
    except ValidationError:
        return []
    for session in sessions:
        if session.outcome == "running":
            session.outcome = "killed"
    return sessions


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    text = " ".join(str(error).split())
    return text if isinstance(error, LlinkError) else f"{type(error).__name__}: {text}".removesuffix(": ")
