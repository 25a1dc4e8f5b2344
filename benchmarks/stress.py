"""Eight threads ask in three languages while adapters come and go: wrong answers, and the memory of the process."""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from common import CODES, arguments, figure, report, resident_bytes, samples, three_languages
from safetensors.torch import load_file, save_file

from llink import Engine
from llink.adapter.files import LORA, MANIFEST, Manifest, file_hash, read_manifest

TEXTS = 8


def shaken(source: Path, folder: Path, seed: int) -> Path:
    """A copy whose LoRA is a little different, its manifest made to agree."""
    shutil.copytree(source, folder)
    draw = torch.Generator().manual_seed(seed)
    tensors = load_file(folder / LORA)
    save_file(
        {k: (v.float() * (1 + 0.3 * torch.randn(v.shape, generator=draw))).to(v.dtype) for k, v in tensors.items()},
        folder / LORA, metadata={"format": "pt"},
    )  # fmt: skip
    manifest: Manifest = read_manifest(folder)
    manifest.files[LORA] = file_hash(folder / LORA)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def truths(engine: Engine, versions: dict[str, list[Path]], length: dict[str, int]) -> dict[tuple[str, int, int], str]:
    """What each version of each language's adapter answers when nobody else asks."""
    found = {}
    for code in CODES:
        for version, place in enumerate(versions[code]):
            engine.add(code, place)
            for n, text in enumerate(samples(code)[:TEXTS]):
                found[code, version, n] = engine.generate(text, code, **length)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, repeats=1)
    parser.add_argument("--threads", type=int, default=8, help="that ask")
    parser.add_argument("--requests", type=int, default=500, help="of each thread")
    parser.add_argument("--tokens", type=int, default=4, help="of each answer")
    parser.add_argument("--small", action="store_true", help="40 requests a thread")
    options = parser.parse_args()
    requests = 40 if options.small else options.requests
    length = {"max_new_tokens": options.tokens}
    with tempfile.TemporaryDirectory() as name:
        # float32: in bfloat16 the last digits of a row depend on the rest of its batch, and a tie may fall otherwise.
        engine, found, note = three_languages(Path(name), dtype="float32")
        versions = {code: [found[code], shaken(found[code], Path(name) / f"{code}-2", 5)] for code in CODES}
        truth = truths(engine, versions, length)
        told_apart = sum(truth[code, 0, n] != truth[code, 1, n] for code in CODES for n in range(TEXTS))
        for code in CODES:
            engine.add(code, versions[code][0])
        stop, done, memory, changes = threading.Event(), [0] * options.threads, [], [0]

        def come_and_go() -> None:
            draw = random.Random(0)
            while not stop.wait(draw.random() / 5):
                code, version = draw.choice(CODES), draw.randrange(2)
                # A language that was removed comes back as its installed adapter, where it has one.
                if draw.random() < 0.3 and not note:
                    engine.remove(code)
                engine.add(code, versions[code][version])
                changes[0] += 1

        def ask(thread: int) -> int:
            draw, wrong = random.Random(thread + 1), 0
            for _ in range(requests):
                code, n = draw.choice(CODES), draw.randrange(TEXTS)
                answer = engine.generate(samples(code)[n], code, **length)
                wrong += answer not in {truth[code, version, n] for version in range(2)}
                done[thread] += 1
            return wrong

        def watch() -> None:
            ended = False
            while not ended:
                ended = stop.wait(0.5)
                memory.append((sum(done), resident_bytes() / 1e6))

        began = time.perf_counter()
        batches = engine.stats()["batches"]
        with ThreadPoolExecutor(options.threads + 2) as pool:
            others = [pool.submit(come_and_go), pool.submit(watch)]
            try:
                wrong = sum(future.result() for future in [pool.submit(ask, t) for t in range(options.threads)])
            finally:
                stop.set()
            for other in others:
                other.result()
        took = time.perf_counter() - began
        stats = engine.stats()
    total = options.threads * requests
    half = [mb for count, mb in memory if count >= total / 2]
    cut = max(1, len(half) // 4)
    drift = sum(half[-cut:]) / cut - sum(half[:cut]) / cut
    rows = [
        ["requests", f"{total:,} in {took:.0f} s"],
        ["answers that no adapter of the language gives", wrong],
        ["adapters added, replaced or removed and added", changes[0]],
        ["texts of which the two versions differ", f"{told_apart} of {len(CODES) * TEXTS}"],
        ["requests a batch", f"{total / (stats['batches'] - batches):.1f}"],
        ["process memory, last quarter of the second half to its first", f"{drift:+.1f} MB of {half[-1]:.0f}"],
        ["adapters still in use", sum(one["users"] for one in stats["adapters"].values())],
    ]
    fig, axes = figure("Memory under load")
    axes.plot([count for count, _ in memory], [mb for _, mb in memory])
    axes.set(xlabel="requests done", ylabel="MB of the process", ylim=(0, None))
    notes = [
        f"{options.threads} threads, answers of {options.tokens} tokens, float32. Each language has two versions of its "
        "adapter: its own, and one with its LoRA shaken.",
        note,
    ]
    report("stress", options.docs, fig, ["", ""], rows, notes)


if __name__ == "__main__":
    main()
