"""The adapter's card: a README generated from its manifest, never typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llink import plugins
from llink.home import atomic_write
from llink.store.registry import load_registry

if TYPE_CHECKING:
    from llink.adapter.files import Manifest


def write_card(folder: Path, manifest: Manifest, place: str = "") -> None:
    """Write ``README.md`` into an adapter folder whose name is, or will be, ``place``; of ``…@NAME`` for its ``CODE@NAME``."""
    _, at, name = (place or folder.resolve().name).partition("@")
    atomic_write(folder / "README.md", card(manifest, f"{manifest.language}{at}{name}"))


def card(manifest: Manifest, asked: str = "") -> str:
    """The card's Markdown; ``asked`` is what `--language` wants to hear, its language's code if nothing else is said."""
    language = plugins.languages().get(manifest.language)
    name = language.name if language else manifest.language
    recipe = manifest.recipe
    lines = [
        f"# {name} for {manifest.decoder}, read through {manifest.encoder}",
        "",
        f"A LLINK language adapter: projector, slot injector ({recipe['injector']['kind']}, K = {manifest.slots}) and LoRA "
        f"(r = {recipe['stage_b']['lora']['r']}). Both base models stay frozen. This page is generated from `manifest.json`.",
        "",
        "```",
        f'llink translate --language {asked or manifest.language} "…"',
        "```",
        "",
        "## Measured",
        "",
        *_metrics(manifest.metrics),
        "## Trained on",
        "",
        "| source | amount | licence |",
        "|---|---|---|",
        *(f"| {source} | {_amount(row)} | {row['licence']} |" for source, row in manifest.data.items()),
        "",
        f"Recipe `{recipe['name']}`, seed {recipe['seed']}; every setting is in `manifest.json`. LLINK {manifest.llink}.",
        "",
        "## Base models and their licences",
        "",
        *_licences(manifest),
        "",
        "## Know before use",
        "",
        "The decoder reads a summary of the sentence in a few vectors, not its characters. Expect the gist; names, numbers "
        "and rare words drift. Do not rely on it where a mistake could hurt someone.",
        "",
    ]
    return "\n".join(lines)


def _amount(row: Mapping[str, Any]) -> str:
    return " ".join(f"{value:,} {key}" for key, value in row.items() if key != "licence")


def _metrics(metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """One table a suite: a row a metric, a column a dev set."""
    lines: list[str] = []
    for suite, by_dev in metrics.items():
        names = list(dict.fromkeys(metric for values in by_dev.values() for metric in values))
        lines += [f"### {suite}", "", f"| | {' | '.join(by_dev)} |", "|---|" + "---|" * len(by_dev)]
        lines += [f"| {n} | {' | '.join(_number(v.get(n)) for v in by_dev.values())} |" for n in names]
        lines.append("")
    return lines or ["Not measured.", ""]


def _number(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)


def _licences(manifest: Manifest) -> list[str]:
    models = load_registry().models
    lines = []
    for role, name in (("encoder", manifest.encoder), ("decoder", manifest.decoder)):
        entry = models.get(name)
        licence = f"{entry.licence}, {entry.licence_url}" if entry else "see the model's own page"
        lines.append(f"- {role} `{name}`: {licence}")
    return lines
