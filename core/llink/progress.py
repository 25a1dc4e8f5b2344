"""What is seen while something runs: progress bars on stderr, silent where nobody watches, and nothing that others print.

``aside`` keeps it off the answers on stdout, ``no_bars``, ``no_report`` and ``silence`` keep libraries quiet.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


def is_first() -> bool:
    """Whether this is the process that writes and prints: the only one, or rank 0 of those a launcher started."""
    return os.environ.get("RANK", "0") == "0"


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


@contextmanager
def aside() -> Iterator[None]:
    """What is printed meanwhile goes to stderr, from Python and from C alike: stdout is for answers.

    For the whole process, so for moments in which nobody else answers: plugins are imported once.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        before, wanted = os.dup(1), os.dup(2)
    except OSError:  # one of them is closed
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        os.dup2(wanted, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)
        os.close(wanted)


@contextmanager
def no_bars() -> Iterator[None]:
    """transformers draws no progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def no_report() -> Iterator[None]:
    """transformers says nothing of weights that a model leaves out, or lacks and does not need."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def silence() -> Iterator[None]:
    """No bars, no warnings, nothing printed: for a step that is known to work, however much it complains."""
    with (
        no_bars(),
        no_report(),
        open(os.devnull, "w") as sink,
        warnings.catch_warnings(),
        redirect_stderr(sink),
        redirect_stdout(sink),
    ):
        warnings.simplefilter("ignore")
        yield
