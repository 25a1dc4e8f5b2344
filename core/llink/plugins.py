"""The plugin manager: built-ins and third parties come through the same entry points, group ``llink``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from llink import hookspecs
from llink.errors import unknown_name
from llink.interfaces import DecoderBackend, EncoderBackend, Language

GROUP = "llink"


@dataclass(frozen=True)
class PluginFailure:
    """A plugin, or one thing it brought, that was left out, and why."""

    plugin: str
    error: str


_failures: list[PluginFailure] = []


@cache
def manager() -> pluggy.PluginManager:
    """The manager with every installed plugin registered.

    A plugin that cannot be imported, or whose hooks have a wrong name or signature, is skipped with
    one line on stderr; with ``LLINK_STRICT_PLUGINS=1`` its error is raised instead.
    """
    plugins = pluggy.PluginManager(GROUP)
    plugins.add_hookspecs(hookspecs)
    # An editable install may list the same entry point twice; LLINK's own come first.
    entries = dict.fromkeys(entry_points(group=GROUP))
    for entry in sorted(entries, key=lambda e: (e.dist is None or e.dist.name != "llink", e.name)):
        _load(plugins, entry)
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


def failures() -> list[PluginFailure]:
    """What was left out in this process so far."""
    return list(_failures)


def _load(plugins: pluggy.PluginManager, entry: EntryPoint) -> None:
    module = None
    try:
        module = entry.load()
        plugins.register(module, name=entry.name)
        plugins.check_pending()
    except Exception as error:
        # pluggy registers hook by hook: take back the ones before the wrong one.
        if module is not None and plugins.is_registered(module):
            plugins.unregister(module)
        _skip(entry.name, error)


def _collect(hook: str, kind: type, key: Callable[[Any], str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for plugin, item in _items(hook, kind):
        name = key(item)
        if name in found:
            taken = ValueError(f"'{name}' already comes from plugin '{owners[name]}', which keeps it")
            _skip(plugin, taken, what=f"{kind.__name__} '{name}' ")
        else:
            found[name], owners[name] = item, plugin
    return found


def _items(hook: str, kind: type) -> Iterator[tuple[str, Any]]:
    """What each plugin returns from ``hook``, called one by one so that one failure stays its own."""
    for impl in getattr(manager().hook, hook).get_hookimpls():
        try:
            yield from [(impl.plugin_name, item) for item in _checked(impl.function(), hook, kind)]
        except Exception as error:
            _skip(impl.plugin_name, error)


def _checked(items: Any, hook: str, kind: type) -> Iterable[Any]:
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, kind) for item in items):
        raise TypeError(f"{hook} must return a list of {kind.__name__}")
    return items


def _skip(plugin: str, error: Exception, what: str = "") -> None:
    if os.environ.get("LLINK_STRICT_PLUGINS") == "1":
        raise error
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    failure = PluginFailure(plugin, reason)
    if failure not in _failures:
        _failures.append(failure)
        print(f"llink: plugin '{plugin}': {what}skipped: {reason}", file=sys.stderr)
