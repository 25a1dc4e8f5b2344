"""The ``llink`` command: a subcommand is imported when it is asked for, an error is one line."""

from __future__ import annotations

import codecs
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from llink import __version__
from llink.errors import LlinkError, unknown_name

COMMANDS = (
    "translate",
    "generate",
    "add-language",
    "remove-language",
    "inspect",
    "estimate",
    "data",
    "train",
    "experiment",
    "eval",
    "report",
    "compare",
    "samples",
    "push",
    "pull",
    "search",
    "languages",
    "models",
    "plugins",
    "recipes",
    "doctor",
)
"""Each is a module of this package (``-`` as ``_``) with a click command named ``command``, in the order of ``llink --help``."""
BUG = 70
REPORT = "where you got LLINK from"
"""The project has no public address of its own yet."""
INTERRUPTED = 130
ESCAPES = "llink-escapes"
"""How characters are written that an output's encoding has not."""


class LazyGroup(click.Group):
    """Subcommands by name of their module; whatever goes wrong in one ends in one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in brought() if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return brought().get(cmd_name)
        command: click.Command = import_module(f"llink.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown_name("E500", "command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        streams()
        try:
            return super().main([readable(arg) for arg in (sys.argv[1:] if args is None else args)], *rest, **named)
        except OSError as error:  # the help, or what an error says, could not be written
            from llink.home import write_error

            quiet_end()
            with suppress(OSError):
                click.echo(f"llink: {write_error(Path('standard output'), error)}", err=True)
            raise SystemExit(1) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own business; it is quiet about a closed pipe
        except LlinkError as error:
            end(ctx, str(error), 1)
        except KeyboardInterrupt:
            end(ctx, "stopped", INTERRUPTED)
        except OSError as error:
            if error.errno is None:  # raised by a library in its own sense
                end(ctx, bug(error), BUG)
            # The machine refuses: no mistake of ours, whatever file it is about.
            from llink.home import write_error

            told = write_error(Path(str(error.filename or "standard output")), error)
            if not error.filename:
                quiet_end()
            end(ctx, str(told), 1)
        except Exception as error:
            end(ctx, bug(error), BUG)


def brought() -> dict[str, click.Command]:
    """The commands of plugins, which are only asked for what is none of ``COMMANDS``."""
    from llink.plugins import commands

    return commands()


def bug(error: BaseException) -> str:
    """What a user reads of a mistake of ours."""
    what = f"{type(error).__name__}: {error}".strip()[:300].rstrip(" .:")
    return (
        f"[bug] {what}. LLINK_DEBUG=1 shows the traceback. Please report it {REPORT}, with the command, that traceback "
        "and what `llink doctor` prints."
    )


def streams() -> None:
    """Give a closed stdin, stdout or stderr the null device: a data file must not take its number and be written over."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)


def quiet_end() -> None:
    """Send what is left of the output nowhere: written once more at exit, it would fail once more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def readable(arg: str) -> str:
    """An argument as UTF-8, also under a locale that knows ASCII alone."""
    if sys.getfilesystemencoding() == "utf-8":
        return arg
    try:
        return os.fsencode(arg).decode("utf-8")
    except UnicodeError:
        return arg


def end(ctx: click.Context, message: str, status: int) -> None:
    """Say one line on stderr and leave with ``status``."""
    if debug():
        traceback.print_exc()
    line = "".join(c if c >= " " and not "\x7f" <= c <= "\x9f" else repr(c)[1:-1] for c in " ".join(message.split()))
    click.echo(f"llink: {line}", err=True)
    ctx.exit(status)


def escapes(error: UnicodeError) -> tuple[str, int]:
    """As ``backslashreplace``, but in the one form that JSON has too: four digits, twice for a character beyond them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True)), error.end


codecs.register_error(ESCAPES, escapes)


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
            stream.reconfigure(errors=ESCAPES)
    if not debug():
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
