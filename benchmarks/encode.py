"""How fast a real training text goes through the frozen encoder: the feature cache beside a plain loop over batches."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import arguments, figure, report

from llink import plugins
from llink.data.pairs import training_pairs
from llink.errors import LlinkError
from llink.features.cache import BATCH_TOKENS, FeatureCache, token_batches
from llink.home import data_folder
from llink.interfaces import Encoder
from llink.recipe import load_recipe, recipe_files
from llink.store.models import load_encoder
from llink.store.registry import load_registry

STRETCHES = 8


def training_texts(folder: Path, count: int) -> list[str]:
    """Texts of the Khmer recipe in the order of its file: ``STRETCHES`` runs of neighbours at equal distances."""
    recipe = load_recipe(recipe_files("llink_khmer")["cpu"])
    data = recipe.data.model_copy(update={"dev": {}})
    texts = list(dict.fromkeys(p.foreign for p in training_pairs(data, folder, plugins.language("km").normalise).rows))
    run, apart = count // STRETCHES, len(texts) // STRETCHES
    if len(texts) <= count or not run:
        return texts[:count]
    return [text for start in range(STRETCHES) for text in texts[start * apart : start * apart + run]]


def plain_loop(encoder: Encoder, texts: list[str], batch: int) -> list[torch.Tensor]:
    """What one writes first: batches in the order of the file, each padded to its longest text."""
    kept = []
    for start in range(0, len(texts), batch):
        out = encoder.encode(texts[start : start + batch])
        kept += [out.pooled.to("cpu", torch.bfloat16), out.states[out.mask].to("cpu", torch.bfloat16)]
    return kept


def spent(act: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock that ``act`` takes, and seconds of computing, which other work on the machine does not change."""
    began, computed = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - began, time.process_time() - computed


def main() -> None:
    parser = arguments(__doc__ or "", 2)
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder with the Khmer training pairs")
    parser.add_argument("--texts", type=int, default=512, help="how many texts are encoded")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32], help="batch sizes of the plain loop")
    options = parser.parse_args()
    try:
        texts = training_texts(options.data, options.texts)
    except LlinkError as error:
        sys.exit(f"This is measured on the text of the Khmer recipe. {error}")
    name = load_registry().default.encoder
    cuda = torch.cuda.is_available()
    encoder = load_encoder(name, device="cuda" if cuda else "cpu")
    counts = [min(n, encoder.max_tokens) for n in encoder.count_tokens(texts)]
    plain_loop(encoder, texts[:32], 32)  # the first run of a model is always slow

    padded = {
        f"plain loop, {batch} a batch": sum(
            len(part) * max(part) for part in (counts[n : n + batch] for n in range(0, len(counts), batch))
        )
        for batch in options.batches
    }
    ours, ordered = "feature cache, onto the disk", sorted(counts)
    padded[ours] = sum(len(part) * ordered[part[-1]] for part in token_batches(ordered, BATCH_TOKENS))
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in padded}
    for _ in range(options.repeats):
        for way, batch in zip(padded, options.batches, strict=False):
            seconds[way].append(spent(lambda b=batch: plain_loop(encoder, texts, b)))
        with tempfile.TemporaryDirectory() as folder:
            cache = FeatureCache(Path(folder), encoder)
            seconds[ours].append(spent(lambda c=cache: c.ensure(texts)))

    wall = {way: statistics.median(clock for clock, _ in values) for way, values in seconds.items()}
    # On a CPU what counts is the computing: the clock also has what else the machine does.
    middle = wall if cuda else {way: statistics.median(cpu for _, cpu in values) for way, values in seconds.items()}
    rows = [
        [way, f"{wall[way]:.1f}", f"{middle[way]:.1f}", f"{len(texts) / middle[way]:,.0f}",
         f"{padded[way] / sum(counts):.2f}", f"{middle[way] / middle[ours]:.2f}x"]
        for way in padded
    ]  # fmt: skip
    plain = [middle[way] for way in padded if way != ours]
    unit = "second" if cuda else "CPU second"
    notes = [
        f"{len(texts)} distinct texts of the recipe `km/cpu`, {statistics.mean(counts):.1f} tokens on average, "
        f"{statistics.median(counts):.0f} in the middle, at most {max(counts)}; encoder {name}, median of {options.repeats}.",
        f"The cache is **{min(plain) / middle[ours]:.1f}x** as fast as the quickest of the plain loops, and "
        f"{max(plain) / middle[ours]:.1f}x as the slowest, by {unit}s. It also counts the tokens, sorts and writes.",
    ]
    fig, axes = figure("Encoding real training text")
    axes.barh(list(padded)[::-1], [len(texts) / middle[way] for way in list(padded)[::-1]])
    axes.set_xlabel(f"texts a {unit}")
    report(
        "encode",
        options.docs,
        fig,
        ["way", "seconds", f"{unit}s", f"texts a {unit}", "tokens computed to own", "to cache"],
        rows,
        notes,
    )


if __name__ == "__main__":
    main()
