"""Time to the first token, prompt tokens and memory: a foreign text through slots, and raw into the same decoder."""

from __future__ import annotations

import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import arguments, clocked, figure, report, samples, three_languages

from llink import Engine
from llink.adapter.prompt import TASKS, build
from llink.adapter.slots import answer_prompts

TASK = "summarize"
WAYS = ("raw", "slots, cold", "slots, cached")


def slope(xs: list[int], ys: list[float]) -> float:
    """Of the least-squares line through the points."""
    return statistics.linear_regression(xs, ys).slope if len(xs) > 1 else float("nan")


def cache_bytes(config: Any, tokens: int, width: int) -> float:
    """Keys and values of a prompt, in megabytes."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return tokens * 2 * config.num_hidden_layers * config.num_key_value_heads * size * width / 1e6


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("--language", default="km", help="whose samples are read")
    parser.add_argument("--sentences", type=int, nargs="+", default=[1, 2, 3, 5, 10, 20], help="lengths of the text")
    options = parser.parse_args()
    code = options.language
    with tempfile.TemporaryDirectory() as folder:
        engine, found, note = three_languages(Path(folder))
        cold = Engine(engine.decoder, engine.encoder, device=engine.device, cache_bytes=0)
        cold.add(code, found[code])
        decoder, resident = engine.decoder, engine.resident(code)
        width = decoder.embedding_matrix().element_size()
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        tokens: dict[str, list[int]] = {"raw": [], "slots": []}
        one = {"max_new_tokens": 1}
        draw = random.Random(1)
        for count in options.sentences:
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            sizes: dict[str, list[int]] = {"raw": [], "slots": []}
            for turn in range(options.repeats + 1):
                text = " ".join(draw.sample(samples(code), count))
                raw = build(decoder, TASKS[TASK], text=text)
                acts = {
                    "raw": lambda p=raw: answer_prompts(decoder, [p], **one),
                    "slots, cold": lambda t=text: cold.generate(t, code, task=TASK, **one),
                    "slots, cached": lambda t=text: engine.generate(t, code, task=TASK, **one),
                }
                acts["slots, cached"]()
                for way, act in acts.items():
                    took = clocked(act)
                    if turn:  # the first turn warms up
                        times[way].append(took)
                passages = len(engine.reader.pieces(text, resident))
                sizes["raw"].append(len(raw.ids))
                sizes["slots"].append(
                    len(build(decoder, TASKS[TASK], slots=resident.bridge.slots, passages=passages).ids)
                )
            for way in WAYS:
                seconds[way].append(statistics.median(times[way]))
            for way in tokens:
                tokens[way].append(round(statistics.median(sizes[way])))
    lengths = options.sentences
    rows = [
        [
            n, tokens["raw"][i], tokens["slots"][i], *(f"{seconds[way][i] * 1e3:.0f}" for way in WAYS),
            f"{seconds['slots, cold'][i] / seconds['raw'][i]:.2f}", f"{seconds['slots, cached'][i] / seconds['raw'][i]:.2f}",
            *(f"{cache_bytes(decoder.model.config, tokens[way][i], width):.1f}" for way in ("raw", "slots")),
        ]
        for i, n in enumerate(lengths)
    ]  # fmt: skip
    slopes = {way: slope(lengths, seconds[way]) for way in WAYS}
    notes = [
        f"Median of {options.repeats} texts of n sentences of the {resident.language.name} samples, joined; task "
        f"`{TASK}`, one token asked for; times include the encoder (cold) and all else that a call does.",
        "Each further sentence costs "
        + ", ".join(f"{slopes[way] * 1e3:.1f} ms ({way}, {slopes[way] / slopes['raw']:.2f} of raw)" for way in WAYS) + ".",
        note if code != "km" else "",
    ]  # fmt: skip
    fig, (left, right) = figure("A foreign text in the decoder", panels=2)
    for way in WAYS:
        left.plot(lengths, [s * 1e3 for s in seconds[way]], marker="o", label=way)
    left.set(xlabel="sentences", ylabel="ms to the first token")
    left.legend()
    for way in tokens:
        right.plot(lengths, tokens[way], marker="o", label=way)
    right.set(xlabel="sentences", ylabel="prompt tokens")
    right.legend()
    header = [
        "n", "tokens, raw", "tokens, slots", "ms, raw", "ms, cold", "ms, cached", "cold / raw", "cached / raw",
        "cache MB, raw", "cache MB, slots",
    ]  # fmt: skip
    report("prefill", options.docs, fig, header, rows, notes)


if __name__ == "__main__":
    main()
