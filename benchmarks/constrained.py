"""What it costs to hold the digits of an answer to those of its text: tokens a second, beside the same prompts without."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from common import arguments, clocked, figure, report, samples, three_languages

from llink.adapter.prompt import TASKS


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, repeats=9)
    parser.add_argument("--rows", type=int, default=12, help="texts a batch, up to 16")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of each answer")
    options = parser.parse_args()
    length = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens}
    # A free instruction in the words of the task has the same prompt, and may write any digits.
    ways = {"any digits": {"instruction": TASKS["translate"]}, "those of the text": {"task": "translate"}}
    with tempfile.TemporaryDirectory() as folder:
        engine, _, note = three_languages(Path(folder))
        texts = samples("km")[: options.rows]

        def run(name: str) -> None:
            engine.generate(texts, "km", **ways[name], **length)

        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(-1, options.repeats):
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                taken = clocked(lambda n=name: run(n))
                if turn >= 0:  # the first time texts are encoded and the vocabulary is read
                    seconds[name].append(taken)
    rate = {name: len(texts) * options.tokens / statistics.median(values) for name, values in seconds.items()}
    free, held = seconds.values()
    ratio = statistics.median(f / h for f, h in zip(free, held, strict=True))
    notes = [
        f"{len(texts)} texts of one sentence a batch, {options.tokens} tokens each, slots cached. Tokens a second, those of "
        f"the text to any digits, median of {options.repeats} turns: **{ratio:.2f}**.",
        note,
    ]
    fig, axes = figure("Throughput of a batch")
    axes.bar(list(rate), list(rate.values()))
    axes.set_ylabel("tokens a second")
    rows = [[name, f"{statistics.median(seconds[name]):.2f}", f"{rate[name]:.0f}"] for name in ways]
    report("constrained", options.docs, fig, ["digits", "seconds", "tokens/s"], rows, notes)


if __name__ == "__main__":
    main()
