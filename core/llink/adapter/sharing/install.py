"""Pushing an adapter to an address and pulling one from it: checked, put in its place, and pinned in the user's registry."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from llink import plugins
from llink.adapter.files import MANIFEST, Manifest, adapter_roots, adapters_in, pair_name, put_into_place
from llink.adapter.sharing import Address, archive, hub
from llink.adapter.sharing.checks import CARD, PARTS, SHARED, check_folder, check_listing, hashes, sizes
from llink.adapter.sharing.metadata import shared_card
from llink.errors import LlinkError
from llink.home import atomic_write, ensure_folder, home, write_error
from llink.store.registry import AdapterEntry, edit, load_registry, user_registry


@dataclass(frozen=True)
class Pulled:
    """An adapter that arrived.

    Attributes:
        called: what `--language` wants to hear: ``km`` or ``km@NAME``.
        commit: of a hub; empty elsewhere.
    """

    called: str
    folder: Path
    manifest: Manifest
    commit: str = ""


def push(folder: Path, to: Address, licence: str, *, private: bool | None = None, message: str = "") -> str:
    """Share an adapter; returns where it is now, with the commit on a hub.

    Args:
        folder: an adapter.
        licence: of the adapter, such as ``apache-2.0``; into its card.

    Raises:
        LlinkError: E310, E322, E323 when it is none or is damaged, E320 where something else is in the way, E321 when a hub
            refuses, E112, E113.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", licence):
        raise LlinkError(
            "E320",
            f"'{licence}' is no identifier of a licence.",
            "Such as apache-2.0, cc-by-4.0, cc-by-nc-4.0 or other.",
        )
    manifest = check_folder(folder, str(folder))
    draft = ensure_folder(home() / "sharing") / f".push.new-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        ensure_folder(draft)
        for name in PARTS:
            shutil.copyfile(folder / name, draft / name)
        name = to.repo.rpartition("/")[2] or (to.path.stem if to.path else "") or folder.name
        atomic_write(draft / CARD, shared_card(manifest, licence, name))
        if to.repo:
            commit = hub.push(draft, to.repo, message or f"LLINK adapter for {manifest.language}", private)
            return f"hub:{to.repo}@{commit}"
        assert to.path is not None
        if to.is_zip:
            archive.pack(draft, to.path)
        else:
            _into_folder(draft, to.path)
        return str(to.path)
    except OSError as error:
        raise write_error(draft, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _into_folder(draft: Path, folder: Path) -> None:
    """An adapter's folder is replaced; any other that holds something is left alone."""
    if os.path.isdir(folder) and os.listdir(folder) and not os.path.isfile(folder / MANIFEST):
        raise LlinkError("E320", f"{folder} holds something else.", "Give a new folder.")
    ensure_folder(folder)
    for name in SHARED:
        shutil.copyfile(draft / name, folder / name)


def pull(source: Address, name: str = "", update: bool = False) -> Pulled:
    """Fetch an adapter, check it, put it under ``LLINK_HOME/adapters`` and pin it in the user's registry.

    A repository that was pulled before stays at its commit unless a revision is named or ``update`` is set, and then too
    the same commit must bring the same files.

    Args:
        name: for ``CODE@NAME``. Without one it becomes the language's own where there is none for its pair of models, else
            it is called as the repository, folder or zip is.

    Raises:
        LlinkError: E320 to E325, E201 when nothing brings its language, E310 and E312 of its manifest.
    """
    if name and not re.fullmatch(r"\w[\w.-]*", name):
        raise LlinkError("E320", f"'{name}' cannot be the name of an adapter.", "Letters, digits, dots, dashes.")
    pinned = pins().get(str(Address(source.repo))) if source.repo else None
    revision = source.revision or (pinned[1].revision if pinned and not update else "")
    draft = ensure_folder(home() / "sharing") / f".pull.new-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    commit = ""
    promised: dict[str, str] = {}
    try:
        ensure_folder(draft)
        if source.repo:
            commit, promised = hub.pull(source.repo, revision, draft)
            if pinned and pinned[1].revision == commit:
                promised = {**promised, **pinned[1].sha256}
            shutil.rmtree(draft / ".cache", ignore_errors=True)
        elif source.is_zip:
            assert source.path is not None
            archive.unpack(source.path, draft)
        else:
            _from_folder(source, draft)
        manifest = check_folder(draft, str(source), promised)
        plugins.language(manifest.language)
        place = _place(manifest, source, name, pinned[0] if pinned else "")
        ensure_folder(place.parent)
        put_into_place(draft, place)
    except OSError as error:
        raise write_error(draft, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _pin(f"{manifest.language}/{place.name}", source, commit, place)
    _, at, own = place.name.partition("@")
    return Pulled(f"{manifest.language}{at}{own}", place, manifest, commit)


def pins() -> dict[str, tuple[str, AdapterEntry]]:
    """The adapters that were pulled, by the address without its revision: where each lies, and what it was."""
    return {entry.source: (key, entry) for key, entry in load_registry().adapters.items()}


def _from_folder(source: Address, draft: Path) -> None:
    assert source.path is not None
    if not os.path.isdir(source.path):
        raise LlinkError("E320", f"There is no {source.path}.", "Give a folder, a zip or hub:ORG/NAME.")
    found = sizes(source.path)
    check_listing(str(source.path), found)
    for name in SHARED:
        if name in found:
            shutil.copyfile(source.path / name, draft / name, follow_symlinks=False)


def _place(manifest: Manifest, source: Address, name: str, pinned: str) -> Path:
    """Where a pulled adapter goes: where it lay before, else under a name of its own if the plain place is taken."""
    root, pair = home() / "adapters" / manifest.language, pair_name(manifest.encoder, manifest.decoder)
    if name:
        return root / f"{pair}@{name}"
    language, _, folder = pinned.partition("/")
    if language == manifest.language and folder.partition("@")[0] == pair:
        return root / folder
    roots = adapter_roots(plugins.language(manifest.language))
    if all(folder.name != pair for place in roots for folder in adapters_in(place)):
        return root / pair
    called = source.repo.rpartition("/")[2] or (source.path.stem if source.path else "")
    own = re.sub(r"[^\w.-]+", "-", called).strip(".-") or "pulled"
    return root / f"{pair}@{own}"


def _pin(key: str, source: Address, commit: str, folder: Path) -> None:
    address = str(Address(source.repo)) if source.repo else str(source.path.absolute() if source.path else "")
    with edit(user_registry()) as registry:
        adapters = registry.setdefault("adapters", {})
        for other in [k for k, entry in adapters.items() if entry.get("source") == address and k != key]:
            del adapters[other]
        adapters[key] = {"source": address, **({"revision": commit} if commit else {}), "sha256": hashes(folder)}
