"""What it costs to have three languages in one batch: tokens a second, beside batches of one language each."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from common import CODES, arguments, clocked, figure, report, samples, three_languages


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("--rows", type=int, default=15, help="texts a batch, a multiple of three, up to 16")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of each answer")
    options = parser.parse_args()
    length = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens}
    with tempfile.TemporaryDirectory() as folder:
        engine, _, note = three_languages(Path(folder))
        texts = {code: samples(code)[: options.rows] for code in CODES}
        third = options.rows // 3
        batches = {code: [(text, code) for text in texts[code]] for code in CODES}
        batches["mixed"] = [(texts[code][n * third + i], code) for i in range(third) for n, code in enumerate(CODES)]

        def run(name: str) -> None:
            engine.generate([t for t, _ in batches[name]], language=[c for _, c in batches[name]], **length)

        cold = {name: clocked(lambda n=name: run(n)) for name in CODES}  # and every text is encoded
        seconds: dict[str, list[float]] = {name: [] for name in batches}
        for turn in range(options.repeats):
            # In turns, so that what else the machine does meets all of them alike.
            for name in list(batches)[turn % 4 :] + list(batches)[: turn % 4]:
                seconds[name].append(clocked(lambda n=name: run(n)))
    rate = {name: options.rows * options.tokens / statistics.median(values) for name, values in seconds.items()}
    one = statistics.mean(rate[code] for code in CODES)
    pairs = zip(*(seconds[name] for name in batches), strict=True)
    ratio = statistics.median(statistics.mean(values[:3]) / values[3] for values in pairs)
    rows = [
        [name, f"{statistics.median(seconds[name]):.2f}", f"{rate[name]:.0f}", f"{rate[name] / one:.2f}"]
        for name in rate
    ]
    notes = [
        f"{options.rows} texts of one sentence a batch, {options.tokens} tokens each, slots cached. Mixed to one language, "
        f"median of {options.repeats} turns: **{ratio:.2f}**. The first time, when every text is encoded too, a batch takes "
        f"{statistics.median(cold.values()):.2f} s.",
        note,
    ]
    fig, axes = figure("Throughput of a batch")
    axes.bar(list(rate), list(rate.values()))
    axes.set_ylabel("tokens a second")
    report("mixed", options.docs, fig, ["batch", "seconds", "tokens/s", "to one language"], rows, notes)


if __name__ == "__main__":
    main()
