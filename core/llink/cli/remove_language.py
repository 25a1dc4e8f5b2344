"""``llink remove-language``: take a language out of the registry, and delete its package if that is wanted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llink.errors import LlinkError, unknown_name

if TYPE_CHECKING:
    from llink.store.registry import LanguageEntry, Layer


@click.command("remove-language", short_help="Take a language out of the registry.")
@click.argument("code")
@click.option("--delete", is_flag=True, help="Delete its package too, with the adapters in it.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
def command(code: str, delete: bool, yes: bool) -> None:
    """Take the language CODE out of the registry that names it.

    Its package stays where it is unless --delete is given, and so does its training data in any case. A language
    that comes with an installed package goes with `pip uninstall`.
    """
    from llink.home import data_folder
    from llink.new_language import scaffold
    from llink.store.registry import edit

    code, entry, layer = _entry(code)
    folder = _folder(code, entry, layer) if delete else None
    if folder:
        _agree(folder, yes)
    with edit(layer.path) as registry:
        del registry["languages"][code]
    click.echo(f"'{code}' is out of {layer.path}")
    if folder:
        scaffold.delete(folder)
        click.echo(f"{folder} is deleted")
    elif _package(entry, layer).is_dir():
        click.echo(f"{_package(entry, layer)} stays; `llink add-language {code}` there registers it again")
    if (data_folder() / code).is_dir():
        click.echo(f"{data_folder() / code} stays: training data is never deleted")
    scaffold.reload()
    _still_there(code)


def _entry(code: str) -> tuple[str, LanguageEntry, Layer]:
    """The registry's entry of a language, by its key there, or by a code or name that stands for it.

    Raises:
        LlinkError: E226 when an installed package brings it, E201 when nothing does.
    """
    from llink.language.iso import lookup
    from llink.new_language.scaffold import in_checkout
    from llink.plugins import OWN, language_origin, languages
    from llink.store.registry import registered_languages

    registered = registered_languages()
    if code not in registered:
        try:
            wanted = lookup(code)
            code = next((c for c in (wanted.code, wanted.code3) if c in registered or c in languages()), code)
        except LlinkError:
            pass  # told below, with the languages that there are
    origin = language_origin(code) if code in languages() else None
    own = registered[code][1].name != "packaged" if code in registered else False
    # What LLINK itself installs comes back at once, and its source tree is changed only from within.
    built_in = origin is not None and (origin.kind, origin.distribution) == ("entry point", OWN)
    if not own and (built_in or (code in registered and not in_checkout())):
        raise LlinkError("E226", f"'{code}' comes with LLINK and stays.")
    if code in registered:
        return code, *registered[code]
    if origin:
        raise LlinkError(
            "E226", f"{languages()[code].name} comes with an installed package, {origin}.",
            f"pip uninstall {origin.distribution or languages()[code].package}",
        )  # fmt: skip
    raise unknown_name("E201", "language", code, {*registered, *languages()})


def _package(entry: LanguageEntry, layer: Layer) -> Path:
    """The folder of a registered package; a checkout's lie in ``languages/``."""
    root = layer.path.parent / (Path(entry.path).expanduser() if entry.path else "languages")
    return root / entry.package.replace(".", "/")


def _folder(code: str, entry: LanguageEntry, layer: Layer) -> Path:
    """What --delete deletes; E226 where that is not what ``add-language`` made."""
    from llink.new_language.scaffold import brings, project_folder

    package = _package(entry, layer)
    # A registry that one merely is in does not say what is deleted.
    if not layer.trusted or package.is_symlink() or not brings(package, code):
        raise LlinkError(
            "E226", f"{package} is no package that `llink add-language` made for '{code}'.",
            "Leave --delete out, and delete what you do not need yourself.",
        )  # fmt: skip
    return project_folder(package)


def _agree(folder: Path, yes: bool) -> None:
    """Ask whether the folder may go; E223 where there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise LlinkError("E223", f"Delete {folder}: there is nobody to ask.", "Say so with --yes.")
    files = sum(path.is_file() for path in folder.rglob("*"))
    click.confirm(f"Delete {folder} with its {files} files?", abort=True, err=True)


def _still_there(code: str) -> None:
    """Say so when another layer or an installed package brings the language all the same."""
    from llink.plugins import language_origin, languages

    if code in languages():
        origin = language_origin(code)
        how = f"pip uninstall {origin.distribution}" if origin.distribution else f"llink remove-language {code}"
        click.echo(f"It is still there through {origin}: {how}")
