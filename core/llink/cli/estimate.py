"""``llink estimate``: what a recipe takes on a stated device, before anything is fetched."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from llink.training.estimate import Sizing


@click.command("estimate", short_help="Say what a recipe takes on a stated device.")
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--device",
    "name",
    default="h100",
    show_default=True,
    metavar="NAME",
    help="h200, h100, a100, a100-40gb, l4, t4 or cpu.",
)
@click.option(
    "--devices",
    "count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many; each takes its share of the batch.",
)
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.35,
    show_default=True,
    metavar="SHARE",
    help="Which share of the device's peak large products reach.",
)
@click.option(
    "--peak",
    type=click.FloatRange(min=0, min_open=True),
    metavar="TFLOPS",
    help="Peak of another device.  [default: the named one's]",
)
@click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Memory of another device.  [default: the named one's]",
)
@click.option(
    "--pairs",
    type=click.IntRange(min=2),
    default=100_000,
    show_default=True,
    metavar="N",
    help="Training pairs there are; the recipe may take fewer.",
)
@click.option(
    "--foreign-tokens",
    type=click.FloatRange(min=1),
    default=48,
    show_default=True,
    metavar="N",
    help="Encoder tokens of a text.",
)
@click.option(
    "--english-tokens",
    type=click.FloatRange(min=1),
    default=24,
    show_default=True,
    metavar="N",
    help="Decoder tokens of its English.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the recipe, such as stage_b.batch=8. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    recipe: str,
    name: str,
    count: int,
    mfu: float,
    peak: float | None,
    memory: float | None,
    pairs: int,
    foreign_tokens: float,
    english_tokens: float,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Estimate parameters, FLOPs, memory and time of RECIPE, a name such as km/paper or a .yaml file.

    From the models' configs alone: nothing is fetched, and the device need not be there. `llink inspect` measures
    real steps on this machine instead.
    """
    from llink.cli.names import recipe_path
    from llink.recipe import load_recipe

    loaded = load_recipe(recipe_path(recipe), overrides)

    from llink.training import estimate

    where = estimate.device(name, peak and 1e12 * peak, memory and 1e9 * memory)
    lengths = estimate.Lengths(foreign=foreign_tokens, english=english_tokens, pairs=pairs)
    found = estimate.size(loaded, where, count=count, mfu=mfu, lengths=lengths)
    if as_json:
        click.echo(json.dumps(estimate.as_json(found), indent=2))
        return
    click.echo(text(found, recipe, (loaded.encoder.name, loaded.decoder.name)))
    if loaded.dtype not in ("auto", found.dtype):
        click.echo(
            f"{where.name} does not compute in {loaded.dtype}: train with --set dtype={found.dtype}, as estimated here."
        )


def text(found: Sizing, title: str, models: tuple[str, str]) -> str:
    """The estimate for a reader."""
    from llink.cli.inspect import duration
    from llink.cli.tables import size, table

    device = found.device
    peak = device.peak(found.dtype) / 1e12
    head = (
        f"{title} on {found.devices} x {device.name} ({device.about}: {peak:.4g} TFLOP/s in {found.dtype}, "
        f"{size(round(device.memory))})"
    )
    later = " and ".join(stage for stage in found.trainable if stage != "A")
    trained = {"projector": "A", "injector": later, "LoRA": later}
    names = dict(zip(("encoder", "decoder"), models, strict=True))
    counts = [
        [part, names.get(part, ""), f"{number:,}", f"in stage {trained[part]}" if part in trained else "frozen"]
        for part, number in found.parameters.items()
    ]
    total = sum(p.seconds for p in found.parts)
    flops = sum(p.flops for p in found.parts)
    times = [
        [p.name, str(p.steps), f"{p.flops / p.steps / 1e9:.4g}", f"{p.flops / 1e15:.3g}", duration(p.seconds), p.bound]
        for p in found.parts
    ]
    times.append(["together", "", "", f"{flops / 1e15:.3g}", duration(total), ""])
    memory = [
        [
            m.stage,
            str(m.batch),
            *(size(round(n)) for n in (m.weights, m.trained, m.activations, m.total)),
            "yes" if m.fits else "no",
            str(m.largest),
        ]
        for m in found.memory
    ]
    lengths = found.lengths
    notes = [
        "Trained numbers: "
        + ", ".join(f"{number:,} in stage {stage}" for stage, number in found.trainable.items())
        + ".",
        *(
            f"Stage {m.stage} does not fit: "
            + (f"the largest batch a device is {m.largest}." if m.largest else "not even a batch of one row does.")
            for m in found.memory
            if not m.fits
        ),
        f"Assumed: {lengths.pairs:,} pairs at most, {lengths.foreign:g} encoder tokens a text, {lengths.english:g} decoder "
        f"tokens of English, {found.mfu:.0%} of the peak; memory at the longest target. An estimate, not a measurement.",
    ]
    return "\n\n".join(
        [
            head,
            table(("", "", "parameters", "trained"), counts),
            table(("part", "steps", "GFLOP a step", "PFLOP", "time", "bound by"), times),
            table(
                ("stage", "batch a device", "weights", "trained", "activations", "memory", "fits", "largest batch"),
                memory,
            ),
            "\n".join(notes),
        ]
    )
