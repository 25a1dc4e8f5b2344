"""``llink report``: an evaluation as a page with plots."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report", short_help="Make a page with plots of an evaluation.")
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Make report.html, report.md and plots/ in the FOLDER that `llink eval --out` wrote.

    The page is one file that needs nothing else. Plots need matplotlib: pip install "llink[report]".
    """
    from llink.evaluation.page import write_report
    from llink.evaluation.results import read

    for path in write_report(read(folder)):
        click.echo(path)
