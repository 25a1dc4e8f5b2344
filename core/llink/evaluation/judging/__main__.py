"""``python -m llink.evaluation.judging NAME``: try a judge, without an adapter: the trials that it must pass, and what it is blind to."""

from __future__ import annotations

import argparse

from llink.adapter.prompt import TASKS
from llink.evaluation.judging import open_judge
from llink.evaluation.judging.duel import calibrate, near_misses
from llink.home import home
from llink.plugins import language


def main() -> None:
    """Print a line a trial."""
    parser = argparse.ArgumentParser(prog="python -m llink.evaluation.judging", description=__doc__)
    parser.add_argument("name", help="as --judge of llink eval takes it")
    parser.add_argument("--language", default="km", help="whose samples it is tried on (km)")
    options = parser.parse_args()
    judge, samples, folder = open_judge(options.name), language(options.language).samples, home() / "verdicts"
    if (margin := getattr(judge, "margin", None)) is not None:
        print(f"margin of a tie: {margin:.3f}")
    for kind, share in near_misses(judge, TASKS["translate"], folder).items():
        print(f"near miss, {kind}: {share:.2f}")
    references, sources = [s.english for s in samples], [s.foreign for s in samples]
    found = calibrate(judge, TASKS["translate"], references, folder, sources=sources)
    print(f"calibration, the worse of two kinds: {found:.2f}")


if __name__ == "__main__":
    main()
