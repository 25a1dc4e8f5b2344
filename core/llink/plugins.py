"""The plugin manager: built-ins and third parties come through the same entry points, group ``llink``.

A language that only the registry names, such as one just made by ``llink add-language``, is loaded after them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module, invalidate_caches
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from llink import hookspecs
from llink.errors import LlinkError, unknown_name
from llink.home import expand
from llink.interfaces import DecoderBackend, EncoderBackend, InjectorKind, Language, LossTerm, PairReader, ProjectorKind
from llink.progress import aside

if TYPE_CHECKING:
    import click

    from llink.store.registry import LanguageEntry, Layer

GROUP = "llink"
OWN = "llink"
"""The distribution that the built-in plugins come in."""


@dataclass(frozen=True)
class Origin:
    """How a plugin was found."""

    kind: str
    """``entry point``, or ``registry (user)`` with the name of the registry's layer."""
    distribution: str = ""
    """``""``, and so is ``version``, for a folder that only a registry names."""
    version: str = ""

    def __str__(self) -> str:
        return "built in" if self.distribution == OWN else self.distribution or self.kind


@dataclass(frozen=True)
class PluginInfo:
    """A plugin that was loaded, and what it brings."""

    name: str
    origin: Origin
    hooks: tuple[str, ...]
    brings: Mapping[str, tuple[str, ...]]
    """By hook, codes of languages and names of the rest; what another plugin brought first is not among them."""


@dataclass(frozen=True)
class PluginFailure:
    """A plugin, or one thing it brought, that was left out, and why."""

    plugin: str
    error: str
    origin: Origin


class Selected(NamedTuple):
    """A language, and which of its adapters: by name, or ``""`` for the one of the pair of models."""

    language: Language
    adapter: str = ""

    def __str__(self) -> str:
        return f"{self.language.code}@{self.adapter}" if self.adapter else self.language.code

    @property
    def called(self) -> str:
        """As messages call it."""
        return f"{self.language.name}@{self.adapter}" if self.adapter else self.language.name


_failures: list[PluginFailure] = []
_origins: dict[str, Origin] = {}
_owners: dict[tuple[str, str], str] = {}
"""Hook and name of each thing that was brought -> the plugin that it came from."""


@cache
def manager() -> pluggy.PluginManager:
    """The manager with every installed plugin registered, and the packages of the registry's languages.

    A plugin that cannot be imported, or whose hooks have a wrong name or signature, is skipped with
    one line on stderr; with ``LLINK_STRICT_PLUGINS=1`` its error is raised instead.

    Raises:
        LlinkError: E102 or E106 when a registry file is invalid.
    """
    from llink.store.registry import registered_languages

    plugins = pluggy.PluginManager(GROUP)
    plugins.add_hookspecs(hookspecs)
    registered = registered_languages()
    # An editable install may list the same entry point twice; LLINK's own come first.
    entries = dict.fromkeys(entry_points(group=GROUP))
    for entry in sorted(entries, key=lambda e: (e.dist is None or e.dist.name != OWN, e.name)):
        origin = Origin("entry point", entry.dist.name, entry.dist.version) if entry.dist else Origin("entry point")
        _load(plugins, entry.name, origin, entry.load)
    modules = {entry.module for entry in entries}
    for code, (language_entry, layer) in registered.items():
        if language_entry.package not in modules:
            origin = Origin(f"registry ({layer.name})")
            _load(plugins, language_entry.package, origin, partial(_import, code, language_entry, layer))
            modules.add(language_entry.package)
    return plugins


@cache
def languages() -> dict[str, Language]:
    """Every language by code; the first plugin to bring a code keeps it."""
    return _collect("llink_languages", Language, lambda language: language.code)


@cache
def encoder_backends() -> dict[str, EncoderBackend]:
    """Every encoder backend by name."""
    return _collect("llink_encoders", EncoderBackend, lambda backend: backend.name)


@cache
def decoder_backends() -> dict[str, DecoderBackend]:
    """Every decoder backend by name."""
    return _collect("llink_decoders", DecoderBackend, lambda backend: backend.name)


@cache
def readers() -> dict[str, PairReader]:
    """Every reader of parallel text by name."""
    return _collect("llink_readers", PairReader, lambda reader: reader.name)


@cache
def losses() -> dict[str, LossTerm]:
    """Every loss by the name that recipes weight it by."""
    return _collect("llink_losses", LossTerm, lambda term: term.name)


@cache
def projectors() -> dict[str, ProjectorKind]:
    """Every projector by the name that recipes choose it by."""
    return _collect("llink_projectors", ProjectorKind, lambda kind: kind.name)


@cache
def injectors() -> dict[str, InjectorKind]:
    """Every slot injector by the name that recipes choose it by."""
    return _collect("llink_injectors", InjectorKind, lambda kind: kind.name)


@cache
def commands() -> dict[str, click.Command]:
    """Every command that a plugin brings, by name; the first plugin to bring a name keeps it."""
    import click

    found: dict[str, click.Command] = {}
    for impl in _implementations("llink_commands"):
        group, plugin = click.Group(), impl.plugin_name
        try:
            with aside():
                impl.function(group)
        except (Exception, SystemExit) as error:
            _skip(plugin, error, _origins[plugin])
            continue
        for name, command in group.commands.items():
            if name in found:
                taken = ValueError(
                    f"'{name}' already comes from plugin '{_owners['llink_commands', name]}', which keeps it"
                )
                _skip(plugin, taken, _origins[plugin], what=f"Command '{name}' ")
            else:
                found[name], _owners["llink_commands", name] = command, plugin
    return found


def language(code_or_name: str) -> Language:
    """A language by ISO 639-1 or 639-3 code, English name or own name, in any case.

    Raises:
        LlinkError: E201 when no plugin brings it.
    """
    wanted = code_or_name.strip().casefold()
    known: dict[str, Language] = {}
    for entry in languages().values():
        for alias in (entry.code, entry.code3, entry.name, entry.endonym):
            if alias:
                known.setdefault(alias.casefold(), entry)
    if wanted in known:
        return known[wanted]
    names = [name for entry in languages().values() for name in (entry.code, entry.name)]
    raise unknown_name("E201", "language", code_or_name, names)


def select(name: str | Selected) -> Selected:
    """``CODE`` or ``CODE@NAME``, a language as ``language`` knows it and one of its adapters; E201 for the language.

    Whether there is such an adapter is for ``llink.adapter.files.find_adapter`` to say.
    """
    if isinstance(name, Selected):
        return name
    code, _, adapter = name.partition("@")
    return Selected(language(code if adapter.strip() else name), adapter.strip())


def projector(name: str) -> ProjectorKind:
    """A projector by name; E203 when no plugin brings it."""
    if name not in projectors():
        raise unknown_name("E203", "projector", name, projectors())
    return projectors()[name]


def injector(name: str) -> InjectorKind:
    """A slot injector by name; E204 when no plugin brings it."""
    if name not in injectors():
        raise unknown_name("E204", "slot injector", name, injectors())
    return injectors()[name]


def check_options(kind: InjectorKind, options: Mapping[str, Any]) -> None:
    """Refuse options that a slot injector cannot be made of, before it is; E408."""
    try:
        if kind.check:
            kind.check(options)
    except ValueError as error:
        raise LlinkError(
            "E408",
            f"Slot injector '{kind.name}' cannot be made: {' '.join(str(error).split())}.",
            "Correct injector.options.",
        ) from error


def info() -> list[PluginInfo]:
    """Every plugin that was loaded, in the order in which it was."""
    for collect in (languages, encoder_backends, decoder_backends, readers, losses, projectors, injectors, commands):
        collect()
    found = []
    for name, plugin in manager().list_name_plugin():
        hooks = sorted(caller.name for caller in manager().get_hookcallers(plugin) or ())
        brings = {hook: tuple(n for (h, n), owner in _owners.items() if (h, owner) == (hook, name)) for hook in hooks}
        found.append(PluginInfo(name, _origins[name], tuple(hooks), brings))
    return found


def language_origin(code: str) -> Origin:
    """Where the plugin that brings the language ``code`` came from."""
    languages()
    return _origins[_owners["llink_languages", code]]


def bringer(hook: str, name: str) -> str:
    """The distribution that brings what ``hook`` lists under ``name``; ``""`` for LLINK's own and for a mere folder."""
    owner = _owners.get((hook, name))
    found = _origins[owner].distribution if owner else ""
    return "" if found == OWN else found


def failures() -> list[PluginFailure]:
    """What was left out in this process so far."""
    return list(_failures)


def _load(plugins: pluggy.PluginManager, name: str, origin: Origin, load: Callable[[], Any]) -> None:
    module = None
    try:
        if plugins.has_plugin(name):
            raise ValueError(f"a plugin of that name is there already ({_origins[name]}); that of {origin} is left out")
        _origins[name] = origin
        with aside():
            module = load()
        plugins.register(module, name=name)
        plugins.check_pending()
    except (Exception, SystemExit) as error:
        # pluggy registers hook by hook: take back the ones before the wrong one.
        if module is not None and plugins.get_name(module) == name:
            plugins.unregister(module)
        _skip(name, error, origin)


def _import(code: str, entry: LanguageEntry, layer: Layer) -> Any:
    """The package of a language that a registry names, from the folder that it says."""
    remedy = f"`llink remove-language {code}` takes it out of {layer.path}"
    if entry.path and layer.trusted:
        folder = layer.path.parent.joinpath(expand(entry.path)).resolve()
        if not folder.is_dir():
            raise FileNotFoundError(f"its folder {folder} is not there; {remedy}")
        if str(folder) not in sys.path:
            # Last, so that nothing in it takes the place of an installed module.
            sys.path.append(str(folder))
            invalidate_caches()
    missing = find_spec(entry.package.partition(".")[0]) is None
    if entry.path and not layer.trusted:
        # Code of a folder that one merely is in must not run.
        remedy = f"the path that {layer.path} gives is ignored; a path belongs in the registry of LLINK_HOME"
        if not missing:
            print(f"llink: language '{code}': {remedy}", file=sys.stderr)
    if missing:
        raise ModuleNotFoundError(f"there is no package '{entry.package}'; {remedy}")
    if not layer.trusted and _lies_in(entry.package, layer.path.parent):
        raise ModuleNotFoundError(
            f"'{entry.package}' lies in the folder of {layer.path} and is not installed; code of a folder that one merely "
            f"stands in is not run: pip install it, or give its path in the registry of LLINK_HOME"
        )
    return import_module(entry.package)


def _lies_in(package: str, folder: Path) -> bool:
    """Whether a package would be imported from ``folder``, though nobody said so; nothing of it is run to find out."""
    said = [Path(place).resolve() for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    if folder.resolve() in said:
        return False
    spec = find_spec(package.partition(".")[0])
    places = [*(spec.submodule_search_locations or ()), *filter(None, [spec.origin])] if spec else []
    return any(Path(place).resolve().is_relative_to(folder.resolve()) for place in places)


def _collect(hook: str, kind: type, key: Callable[[Any], str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for plugin, item in _items(hook, kind):
        name = key(item)
        if name in found:
            taken = ValueError(f"'{name}' already comes from plugin '{_owners[hook, name]}', which keeps it")
            _skip(plugin, taken, _origins[plugin], what=f"{kind.__name__} '{name}' ")
        else:
            found[name], _owners[hook, name] = item, plugin
    return found


def _items(hook: str, kind: type) -> Iterator[tuple[str, Any]]:
    """What each plugin returns from ``hook``, called one by one so that one failure stays its own."""
    for impl in _implementations(hook):
        try:
            with aside():
                items = _checked(impl.function(), hook, kind)
            yield from [(impl.plugin_name, item) for item in items]
        except (Exception, SystemExit) as error:
            _skip(impl.plugin_name, error, _origins[impl.plugin_name])


def _implementations(hook: str) -> list[pluggy.HookImpl]:
    """In the order of loading: pluggy's own would let ``trylast`` go before the built-ins."""
    order = [name for name, _ in manager().list_name_plugin()]
    return sorted(getattr(manager().hook, hook).get_hookimpls(), key=lambda impl: order.index(impl.plugin_name))


def _checked(items: Any, hook: str, kind: type) -> Iterable[Any]:
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, kind) for item in items):
        raise TypeError(f"{hook} must return a list of {kind.__name__}")
    return items


def _skip(plugin: str, error: BaseException, origin: Origin, what: str = "") -> None:
    if os.environ.get("LLINK_STRICT_PLUGINS") == "1":
        # A plugin that ends the process must not pass for success.
        raise error if isinstance(error, Exception) else RuntimeError(f"plugin '{plugin}' exits: {error}") from error
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    failure = PluginFailure(plugin, reason, origin)
    if failure not in _failures:
        _failures.append(failure)
        print(f"llink: plugin '{plugin}': {what}skipped: {reason}", file=sys.stderr)
