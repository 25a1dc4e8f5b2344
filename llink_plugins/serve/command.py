"""``llink serve``: the options, and the process that listens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llink_plugins.serve.settings import ADMIN_KEY, KEY, Keys, Settings

FILE = click.Path(path_type=Path)


@click.command("serve", short_help="A server with OpenAI's API and LibreTranslate's.")
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; any but this machine's own needs a key.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--keys",
    type=FILE,
    metavar="FILE",
    help=f"Keys of those who may ask, one a line, a name before it if you like.  [default: {KEY}]",
)
@click.option(
    "--admin-keys", type=FILE, metavar="FILE", help=f"Keys of those who may change adapters.  [default: {ADMIN_KEY}]"
)
@click.option(
    "--adapters",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="Folder whose adapters may be loaded while it runs. Repeatable.",
)
@click.option("--encoder", metavar="NAME_OR_DIR", help="Of the registry, or a folder.  [default: the registry's]")
@click.option("--decoder", metavar="NAME_OR_DIR", help="Of the registry, or a folder.  [default: the registry's]")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--dtype", metavar="TYPE", help="float32, bfloat16 or float16.  [default: what the device does best]")
@click.option("--max-resident", type=click.IntRange(min=1), metavar="N", help="Adapters in memory.  [default: all]")
@click.option(
    "--max-queue",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    metavar="N",
    help="Texts that may wait for the decoder.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    metavar="N",
    help="Requests that are answered at once.",
)
@click.option(
    "--per-key", type=click.IntRange(min=1), default=16, show_default=True, metavar="N", help="The same of one key."
)
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1024),
    default=2 << 20,
    show_default=True,
    metavar="N",
    help="Bytes of a request.",
)
@click.option(
    "--max-chars",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    metavar="N",
    help="Characters of all texts of a request.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    metavar="N",
    help="Tokens of an answer.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="That an answer may take.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="That answers have left after SIGTERM.",
)
def command(**options: Any) -> None:
    """Serve every installed language over HTTP, until SIGTERM or Ctrl-C.

    Any client of OpenAI's API will do, with the address http://HOST:PORT/v1, and any of LibreTranslate's. Only this
    machine is listened to unless --host says otherwise. docs/serving.md has the rest.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        from llink.errors import LlinkError

        raise LlinkError(
            "E550", f"`llink serve` needs the package {error.name}.", 'Run: pip install "llink[serve]"'
        ) from None
    model = {name: options.pop(name) for name in ("encoder", "decoder", "device", "dtype", "max_resident", "max_queue")}
    keys, admin = Keys.read(options.pop("keys"), KEY), Keys.read(options.pop("admin_keys"), ADMIN_KEY)
    folders = tuple(folder.resolve() for folder in options.pop("adapters"))
    settings = Settings(keys=keys, admin=admin, adapters=folders, **options)
    from llink_plugins.serve.process import run  # torch

    run(settings, **model)
