"""What the feature cache costs as the pairs grow: time, memory and disk of filling it and of reading from it."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, overload

from common import CODES, arguments, clocked, figure, report

from llink import plugins
from llink.interfaces import Encoded, Encoder

BATCHES, ROWS = 100, 128


class Fresh(Sequence[str]):
    """``count`` texts of one side of the samples, over and over, each under an id of its own; made when asked for."""

    def __init__(self, texts: list[str], count: int) -> None:
        self.texts, self.count = texts, count

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(self.count))]
        return f"{place} {self.texts[place % len(self.texts)]}"


class Clocked(Encoder):
    """An encoder that adds up the time it takes, tokens counted and computed."""

    def __init__(self, inner: Encoder) -> None:
        self.inner, self.seconds = inner, 0.0
        self.name, self.hidden_size, self.max_tokens = inner.name, inner.hidden_size, inner.max_tokens
        self.fingerprint, self.signature = inner.fingerprint, inner.signature

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self._timed(lambda: self.inner.tokenize(texts))

    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Encoded:
        return self._timed(lambda: self.inner.encode_tokens(tokens))

    def _timed(self, act: Callable[[], Any]) -> Any:
        began = time.process_time()
        done = act()
        self.seconds += time.process_time() - began
        return done


def private_bytes() -> int:
    """Memory that is this process's own; pages of mapped files, which the system takes back at need, are not in it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("This system does not say how much memory of a process is its own; Linux does.")


@contextmanager
def watched() -> Iterator[list[int]]:
    """The most private memory above that at the start, in a list of one, looked at every 20 ms."""
    start, most, done = private_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], private_bytes() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
        most[0] = max(most[0], private_bytes() - start)


def samples(side: str) -> list[str]:
    """One side of the sample sentences of all languages."""
    return [getattr(sample, side) for code in CODES for sample in plugins.language(code).samples]


def measure(model: str, folder: str, pairs: int) -> dict[str, float]:
    """Fill an empty cache with both sides of ``pairs`` pairs, then read from it; in a process of its own."""
    import torch

    from llink.features.cache import FeatureCache
    from llink.store.models import load_encoder

    torch.set_num_threads(1)
    encoder = Clocked(load_encoder(model, dtype="float32", layer=1))
    foreign, english = (Fresh(samples(side), pairs) for side in ("foreign", "english"))
    # What the libraries take at first use is not the cache's.
    with tempfile.TemporaryDirectory() as other:
        FeatureCache(Path(other), encoder).ensure(Fresh(samples("foreign"), 2048))
    encoder.seconds = 0.0
    cache = FeatureCache(Path(folder), encoder)
    began = time.process_time()
    with watched() as filling:
        assert cache.ensure(foreign) + cache.ensure(english) == 2 * pairs
    spent = time.process_time() - began
    result = {"pairs": pairs, "seconds": spent, "own": spent - encoder.seconds, "filling": filling[0]}
    files = [path.stat().st_size for path in Path(folder).rglob("*.*") if path.is_file()]
    index = [path.stat().st_size for path in Path(folder).rglob("*.index")]
    result |= {"disk": sum(files), "index": sum(index), "segments": len(index)}

    pick = random.Random(1)
    with watched() as reading:
        result["open"] = clocked(lambda: FeatureCache(Path(folder), encoder))
        cache = FeatureCache(Path(folder), encoder)
        began = time.process_time()
        vectors = cache.vectors(foreign)
        result["find"] = (time.process_time() - began) / pairs
        chosen = [torch.randint(pairs, (ROWS,)) for _ in range(BATCHES)]
        for turn in ("vectors_cold", "vectors"):  # the first turn opens the shards
            began = time.process_time()
            for rows in chosen:
                vectors[rows]
            result[turn] = (time.process_time() - began) / BATCHES / ROWS
        began = time.process_time()
        for _ in range(BATCHES):
            cache.states([foreign[pick.randrange(pairs)] for _ in range(32)])
        result["states"] = (time.process_time() - began) / BATCHES / 32
    result["reading"] = reading[0]
    return result


def main() -> None:
    parser = arguments(__doc__ or "", 1)
    sizes = [1_000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--pairs", type=int, nargs="+", default=sizes, help="numbers of pairs, rising")
    options = parser.parse_args()
    from llink.testing.tiny import xlm_roberta

    results = []
    with tempfile.TemporaryDirectory() as scratch:
        model = str(xlm_roberta(Path(scratch) / "model", samples("foreign") + samples("english")))
        for pairs in options.pairs:
            with (
                tempfile.TemporaryDirectory(dir=scratch) as folder,
                ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own,
            ):
                results.append(own.submit(measure, model, folder, pairs).result())

    rows = [
        [f"{r['pairs']:,.0f}", f"{r['seconds'] / r['pairs'] * 1e6:.0f}", f"{r['own'] / r['pairs'] * 1e6:.0f}",
         f"{r['filling'] / 1e6:.0f}", f"{r['disk'] / r['pairs']:,.0f}", f"{r['segments']:.0f}", f"{r['open'] * 1e3:.0f}",
         f"{r['find'] * 1e6:.1f}", f"{r['vectors_cold'] * 1e6:.1f}", f"{r['vectors'] * 1e6:.1f}",
         f"{r['states'] * 1e6:.0f}", f"{r['reading'] / 1e6:.0f}"]
        for r in results
    ]  # fmt: skip
    first, last = results[0], results[-1]
    before = results[-2] if len(results) > 1 else first
    grown = (last["reading"] - before["reading"]) / max(last["pairs"] - before["pairs"], 1)
    notes = [
        "A pair is two texts, each the sample sentences of three languages under ids of their own, encoded for real by a "
        "tiny XLM-R (hidden size 32). Times are CPU microseconds: of filling a pair, of that without the encoder, of finding "
        "a text, of a sentence vector in random batches of 128 with the shards still closed and then open, of a text's states "
        "in random batches of 32. Memory is the process's own in MB above that before; mapped pages, which the system takes "
        "back, are not counted. Each row is an empty cache and a process of its own.",
        f"From {first['pairs']:,.0f} to {last['pairs']:,.0f} pairs the cache's own cost of a pair goes from "
        f"{first['own'] / first['pairs'] * 1e6:.0f} to {last['own'] / last['pairs'] * 1e6:.0f} us. Between the last "
        f"two rows a pair more takes {grown:.0f} bytes of memory in reading, its place among the vectors to train on and what "
        "is mapped; a float32 vector of 640 would take 2,560.",
    ]
    fig, axes = figure("The feature cache as the pairs grow", panels=2)
    counts = [r["pairs"] for r in results]
    for label, key in (("filling, encoder and cache", "seconds"), ("filling, cache alone", "own")):
        axes[0].plot(counts, [r[key] / r["pairs"] * 1e6 for r in results], "o-", label=label)
    axes[0].set_ylabel("CPU microseconds a pair")
    for label in ("filling", "reading"):
        axes[1].plot(counts, [r[label] / 1e6 for r in results], "o-", label=label)
    axes[1].set_ylabel("MB of memory")
    for panel in axes:
        panel.set_xscale("log")
        panel.set_xlabel("pairs")
        panel.set_ylim(bottom=0)
        panel.legend()
    head = ["pairs", "fill", "fill, cache alone", "MB filling", "bytes on disk a pair", "index files", "open, ms", "find",
            "vector, closed", "vector", "states", "MB reading"]  # fmt: skip
    report("cache", options.docs, fig, head, rows, notes)


if __name__ == "__main__":
    main()
