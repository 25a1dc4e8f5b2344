"""``llink doctor``: what is installed, which device, which models, and what is wrong."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import click

from llink import __version__
from llink.errors import LlinkError

SHOWN = ("torch", "transformers", "peft", "tokenizers", "safetensors")
LOW_DISK = 2e9
"""Bytes; converting the larger of the default models needs about 1.3 GB for a moment."""
INSTALL = "pip install -c constraints.txt -e ."


class Finding(NamedTuple):
    """One line of the report."""

    mark: str
    subject: str
    text: str
    todo: str = ""


@click.command("doctor", short_help="Say what is installed and what is wrong.")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Say what is installed, which device and models there are, and what is wrong.

    Each line is marked ok, warn (works, but mind it) or fail (will not work); the exit status is 1 on any fail.
    """
    marks = []
    for check in (python, packages, device, folder, models, plugins, languages):
        for finding in careful(check):
            todo = f" -> {finding.todo}" if finding.todo else ""
            click.echo(f"{finding.mark:4}  {finding.subject:12}  {finding.text}{todo}")
            marks.append(finding.mark)
    click.echo(f"\n{marks.count('fail')} fail, {marks.count('warn')} warn")
    ctx.exit(1 if "fail" in marks else 0)


def careful(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What ``check`` finds; an error in it is a finding too."""
    try:
        yield from check()
    except LlinkError as error:
        yield Finding("fail", check.__name__, f"[{error.code}] {error.message}", error.hint)
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        yield Finding("fail", check.__name__, text, f"install again: {INSTALL}")


def python() -> Iterator[Finding]:
    new_enough = sys.version_info >= (3, 10)
    todo = "" if new_enough else "install Python 3.10 or newer"
    yield Finding("ok" if new_enough else "fail", "python", f"{platform.python_version()} at {sys.executable}", todo)
    yield Finding("ok", "platform", platform.platform())
    yield Finding("ok", "llink", __version__)
    coding = (getattr(sys.stdout, "encoding", "") or "none").lower()
    if coding.replace("-", "") not in ("utf8", "none"):
        text = f"stdout is {coding}: letters that it has not come out as escapes"
        yield Finding("warn", "locale", text, "set LC_ALL=C.UTF-8 or PYTHONIOENCODING=utf-8")


def packages() -> Iterator[Finding]:
    """The versions of ``SHOWN``, and of whatever else is missing or does not fit."""
    from packaging.requirements import Requirement

    required = [Requirement(line) for line in importlib.metadata.requires("llink") or []]
    wanted = {r.name: r.specifier for r in required if r.marker is None or r.marker.evaluate({"extra": ""})}
    for name in dict.fromkeys((*SHOWN, *wanted)):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fail", name, "not installed", INSTALL)
            continue
        if name in wanted and not wanted[name].contains(version, prereleases=True):
            yield Finding("fail", name, f"{version}, needed is {wanted[name]}", INSTALL)
        elif name in SHOWN:
            yield Finding("ok", name, version)


def device() -> Iterator[Finding]:
    """The devices that torch sees, and what the CPU can do."""
    import torch

    from llink.store.models import default_dtype

    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        text = f"{card.name}, {card.total_memory / 1e9:.0f} GB, {short(default_dtype(f'cuda:{index}'))}"
        yield Finding("ok", f"cuda:{index}", text)
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps", f"Apple GPU, {short(default_dtype('mps'))}")
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    text = f"{torch.backends.cpu.get_cpu_capability()}, {threads}, {short(default_dtype('cpu'))}"
    yield Finding("ok", "cpu", text)


def folder() -> Iterator[Finding]:
    """LLINK_HOME: may it be written to, and is there room."""
    from llink.home import ensure_folder, home, stale

    place = home()
    origin = "" if os.environ.get("LLINK_HOME") else " (default)"
    if left := stale(place) + stale(place / "features") + stale(place / "models"):
        text = f"{len(left)} drafts of killed runs, such as {left[0]}"
        yield Finding("warn", "drafts", text, "they are deleted when LLINK next writes there")
    ensure_folder(place)
    free = shutil.disk_usage(place).free
    text = f"{place}{origin}, writable, {free / 1e9:.1f} GB free"
    if free < LOW_DISK:
        yield Finding("warn", "LLINK_HOME", text, "free some disk, or set LLINK_HOME to another one")
    else:
        yield Finding("ok", "LLINK_HOME", text)


def models() -> Iterator[Finding]:
    """Each model of the registry: fetched or not, and whether a plugin can load it."""
    from llink import store
    from llink.cli.tables import size
    from llink.plugins import decoder_backends, encoder_backends

    for model in store.status():
        backends = encoder_backends() if model.role == "encoder" else decoder_backends()
        if model.backend not in backends:
            yield Finding("fail", "model", f"{model.name}: no backend '{model.backend}'", "install its plugin")
        elif model.stored:
            yield Finding("ok", "model", f"{model.name}, fetched, {size(model.bytes)}")
        elif model.default:
            text = f"{model.name}, not fetched yet, {size(model.bytes)}"
            yield Finding("warn", "model", text, "the first `llink translate` fetches it")
        else:
            yield Finding("ok", "model", f"{model.name}, not fetched, not needed by default")


def plugins() -> Iterator[Finding]:
    """The plugins that were loaded, and those that failed."""
    from llink.plugins import decoder_backends, encoder_backends, failures, languages, manager

    for collect in (languages, encoder_backends, decoder_backends):
        collect()
    names = sorted(name for name, plugin in manager().list_name_plugin() if plugin is not None)
    yield Finding("ok" if names else "fail", "plugins", ", ".join(names) or "none", "" if names else INSTALL)
    for failure in failures():
        yield Finding("fail", "plugin", f"{failure.plugin}: {failure.error}", "update or uninstall it")


def languages() -> Iterator[Finding]:
    """The languages, and whether each has an adapter for the default pair."""
    from llink.adapter.files import pair_name
    from llink.cli.names import adapters
    from llink.plugins import languages as known
    from llink.store.registry import load_registry

    default = load_registry().default
    for code, entry in sorted(known().items()):
        if pair_name(default.encoder, default.decoder) in adapters(entry):
            yield Finding("ok", "language", f"{code} ({entry.name}), adapters: {', '.join(adapters(entry))}")
        else:
            text = f"{code} ({entry.name}), no adapter for the default pair"
            yield Finding("warn", "language", text, f"llink train {code}")


def short(dtype: object) -> str:
    """``bfloat16`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")
