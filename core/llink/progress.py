"""Progress bars on stderr, through tqdm; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llink.ranks import is_first


@contextmanager
def track(label: str, total: int | None, unit: str = "it", done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar that appears when the work takes over two seconds, on one rank; yields ``advance(n)``.

    Args:
        total: None where it is not known. done: how much an earlier run did.
    """
    from tqdm import tqdm

    # On a terminal the bar is redrawn; in a log file one line a minute is enough.
    pace = 0.2 if sys.stderr.isatty() else 60.0
    with tqdm(total=total, initial=done, desc=label, unit=unit, unit_scale=unit == "B", delay=2.0, mininterval=pace, leave=False,
              file=sys.stderr, disable=not is_first()) as bar:  # fmt: skip
        yield lambda n: (bar.update(n), None)[1]
