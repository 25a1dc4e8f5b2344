"""What the benchmarks share: the default pair with three languages, tables into docs/benchmarks.md, figures beside it."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from llink import Engine, plugins
from llink.adapter.files import MANIFEST, find_adapter
from llink.data.pairs import training_pairs
from llink.errors import LlinkError
from llink.home import atomic_write, data_folder
from llink.recipe import Data
from llink.store.registry import load_registry

DOCS = Path(__file__).resolve().parents[1] / "docs"
CODES = ("km", "am", "my")
TRAINING = "km/train.jsonl.gz"


def arguments(about: str, repeats: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="how often each thing is measured")
    parser.add_argument(
        "--docs", type=Path, default=DOCS, help="folder whose benchmarks.md and benchmarks/ are written"
    )
    return parser


def adapters(folder: Path) -> tuple[dict[str, Path], str]:
    """An adapter a language for the default pair, and a note where one had to be a copy of the Khmer one."""
    default = load_registry().default
    found: dict[str, Path] = {}
    copies = []
    for code in CODES:
        try:
            found[code] = find_adapter(plugins.language(code), default.encoder, default.decoder)
        except LlinkError:
            found[code] = Path(shutil.copytree(found["km"], folder / code))
            copies.append(plugins.language(code).name)
    return found, f"The adapter of {' and '.join(copies)} is a copy of the Khmer one." if copies else ""


def three_languages(folder: Path, **options: Any) -> tuple[Engine, dict[str, Path], str]:
    """An engine with the three adapters resident; the adapters; and the note of ``adapters``."""
    found, note = adapters(folder)
    engine = Engine.load(**options)
    for code, place in found.items():
        engine.add(code, place)
    return engine, found, note


def samples(code: str) -> list[str]:
    """The sentences that a language brings."""
    return [sample.foreign for sample in plugins.language(code).samples]


def training_text(folder: Path | None, data: Data) -> tuple[list[tuple[str, str]], str]:
    """(foreign, English) of the Khmer training pairs, and a note; where there are none, the samples that Khmer brings.

    Args:
        folder: holds ``km/train.jsonl.gz``; None for that of ``llink train``.
        data: which of them count.
    """
    folder, khmer = folder or data_folder(), plugins.language("km")
    if (folder / TRAINING).exists():
        chosen = data.model_copy(update={"train": [TRAINING], "dev": {}, "columns": {}})
        return [(p.foreign, p.english) for p in training_pairs(chosen, folder, khmer.normalise).rows], ""
    texts = [(khmer.normalise(sample.foreign), sample.english) for sample in khmer.samples]
    print(
        f"No {TRAINING} in {folder}: on the {len(texts)} sample sentences alone. Name the folder of the data with --data."
    )
    return texts, f"Without training data, on the {len(texts)} sample sentences that Khmer brings."


def clocked(act: Callable[[], Any]) -> float:
    """Seconds that ``act`` takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def p50_p99(seconds: Sequence[float]) -> tuple[float, float]:
    """Median, and the 99th percentile (the largest of fewer than a hundred)."""
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]


def forget(folder: Path) -> None:
    """Put an adapter's files out of the page cache, so that they are read from the disk next time."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(folder: Path, repeats: int, before: Callable[[Path], None] = lambda _: None) -> float:
    """Median seconds that reading an adapter's files takes, and nothing else."""
    files = [path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name == MANIFEST]
    seconds = []
    for _ in range(repeats):
        before(folder)
        seconds.append(clocked(lambda: [path.read_bytes() for path in files]))
    return statistics.median(seconds)


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def figure(name: str, size: tuple[float, float] = (6.4, 3.6), panels: int = 1) -> tuple[Any, Any]:
    """A figure and its axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, panels, figsize=(size[0] * (1 if panels == 1 else 0.75 * panels), size[1]))
    fig.suptitle(name)
    return fig, axes


def report(
    name: str,
    docs: Path,
    fig: Any,
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    notes: Sequence[str],
    where: str | None = None,
) -> None:
    """Print the table, and put it and the figure into the docs between the benchmark's marks.

    Args:
        fig: None for a benchmark that draws none.
        where: the last line; None for the default decoder on this machine.
    """
    cells = [[str(cell) for cell in row] for row in (header, ["---"] * len(header), *rows)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    if where is None:
        decoder = load_registry().default.decoder
        where = f"Measured on {os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}, {decoder}."
    text = "\n\n".join([table, *filter(None, notes), where])
    print(text)
    picture = ""
    if fig is not None:
        (docs / "benchmarks").mkdir(parents=True, exist_ok=True)
        fig.tight_layout()
        fig.savefig(docs / "benchmarks" / f"{name}.png", dpi=120)
        picture = f"\n\n![{name}](benchmarks/{name}.png)"
    page = docs / "benchmarks.md"
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    block = f"{begin}\n\n{text}{picture}\n\n{end}"
    old = page.read_text(encoding="utf-8") if page.exists() else f"{begin}\n{end}\n"
    atomic_write(page, re.sub(f"{re.escape(begin)}.*{re.escape(end)}", lambda _: block, old, flags=re.DOTALL))
