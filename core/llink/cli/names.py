"""Names a user types for recipes and adapters, resolved to files."""

from __future__ import annotations

import os
from pathlib import Path

import click

from llink.adapter.files import MANIFEST, adapter_roots, adapters_in, find_adapter
from llink.errors import LlinkError, unknown_name
from llink.home import expand
from llink.interfaces import Language, package_folder
from llink.plugins import Selected, language, languages, select
from llink.recipe import Recipe, recipe_files


def all_recipes() -> dict[str, Path]:
    """The recipes of every language as ``code/name``, found on disk."""
    return {
        f"{code}/{name}": path
        for code, entry in sorted(languages().items())
        for name, path in recipe_files(entry.package).items()
    }


def named_recipe(name: str) -> Path:
    """A shipped recipe by ``code/name``, by ``name`` where only one language has it, or by ``package/name``.

    Raises:
        LlinkError: E205 when there is none, or more than one.
    """
    recipes = all_recipes()
    package, slash, short = name.partition("/")
    if slash and "." in package:
        recipes = {f"{package}/{own}": path for own, path in recipe_files(package).items()}
        name = f"{package}/{short}"
    matches = [full for full in recipes if name in (full, full.partition("/")[2])]
    if len(matches) > 1:
        raise LlinkError("E205", f"Several recipes are called '{name}'.", f"Say which: {', '.join(matches)}.")
    if not matches:
        raise unknown_name("E205", "recipe", name, recipes)
    return recipes[matches[0]]


def accelerate_configs() -> dict[str, Path]:
    """The shipped configs of `accelerate launch`, by name."""
    return {p.stem: p for p in sorted(package_folder("llink", "training/accelerate").glob("*.yaml"))}


def recipe_path(name: str, owner: Language | None = None) -> Path:
    """A recipe by name (of the language ``owner``), or by a path that ends in ``.yaml``.

    Raises:
        LlinkError: E205 for an unknown name.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    if owner is None:
        return named_recipe(name)
    own = recipe_files(owner.package)
    short = name.removeprefix(f"{owner.code}/")
    if short not in own:
        raise unknown_name("E205", f"{owner.name} recipe", name, own)
    return own[short]


def check_names(recipe: Recipe) -> None:
    """Refuse a recipe that names what is not there, before an hour of training finds out.

    Raises:
        LlinkError: E201 language, E101 or E103 models, E203 projector, E204 slot injector, E219 losses.
    """
    from llink.store.registry import load_registry
    from llink.training.objective import check_losses, check_parts

    language(recipe.language)
    check_losses(recipe)
    check_parts(recipe)
    registry = load_registry()
    if not os.path.exists(expand(recipe.encoder.name)):
        registry.get(recipe.encoder.name, "encoder")
    if not os.path.exists(expand(recipe.decoder.name)):
        registry.get(recipe.decoder.name, "decoder")


def selected(name: str, adapter: str | None, encoder: str, decoder: str) -> tuple[Selected, Path | None]:
    """``CODE`` or ``CODE@NAME`` and ``--adapter`` as one: what is selected, and its folder where either names one.

    Raises:
        LlinkError: E201 unknown language, E301 no such adapter.
    """
    chosen = select(name)
    if adapter:
        if chosen.adapter:
            raise click.UsageError(f"Give --adapter or {chosen}, not both.")
        return chosen, adapter_path(adapter, chosen.language)
    if chosen.adapter:
        return chosen, find_adapter(chosen.language, encoder, decoder, name=chosen.adapter)
    return chosen, None


def adapters(owner: Language) -> dict[str, Path]:
    """A language's adapters by folder name: its package's, and the user's own, which come first."""
    roots = reversed(adapter_roots(owner))
    return {folder.name: folder for root in roots for folder in adapters_in(root)}


def adapter_path(name: str, owner: Language) -> Path:
    """An adapter by folder or by name.

    Raises:
        LlinkError: E301 when there is none.
    """
    present = adapters(owner)
    if name in present:
        return present[name]
    if os.path.isfile(Path(name) / MANIFEST):
        return Path(name)
    raise unknown_name("E301", f"{owner.name} adapter (name, or folder with {MANIFEST})", name, present)
