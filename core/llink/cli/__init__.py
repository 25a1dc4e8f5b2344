"""The ``llink`` command: a subcommand is imported when it is asked for, an error is one line."""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from importlib import import_module
from typing import Any

import click

from llink import __version__
from llink.errors import LlinkError, unknown_name

COMMANDS = (
    "translate", "generate", "add-language", "remove-language", "inspect", "estimate", "data", "train", "experiment",
    "eval", "report", "compare", "samples", "languages", "models", "plugins", "recipes", "doctor",
)  # fmt: skip
"""Each is a module of this package (``-`` as ``_``) with a click command named ``command``, in the order of ``llink --help``."""
BUG = 70
INTERRUPTED = 130


class LazyGroup(click.Group):
    """Subcommands by name of their module; whatever goes wrong in one ends in one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"llink.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown_name("E500", "command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own business; it is quiet about a closed pipe
        except LlinkError as error:
            end(ctx, str(error), 1)
        except KeyboardInterrupt:
            end(ctx, "stopped", INTERRUPTED)
        except Exception as error:
            what = f"{type(error).__name__}: {error}".strip()[:300].rstrip(" .:")
            end(ctx, f"[bug] {what}. LLINK_DEBUG=1 shows the traceback.", BUG)


def end(ctx: click.Context, message: str, status: int) -> None:
    """Say one line on stderr and leave with ``status``."""
    if debug():
        traceback.print_exc()
    click.echo(f"llink: {' '.join(message.split())}", err=True)
    ctx.exit(status)


def debug() -> bool:
    """Whether tracebacks and the libraries' own warnings are wanted."""
    return os.environ.get("LLINK_DEBUG", "") not in ("", "0")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llink")
def main() -> None:
    """A small English language model answers about text in a language it cannot read.

    Every command has its own --help.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that has no Khmer gets escapes, not a crash.
            stream.reconfigure(errors="backslashreplace")
    if not debug():
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
