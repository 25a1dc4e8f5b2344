"""The language adapter as a folder: save, verify, load. Safetensors only, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llink import __version__
from llink.adapter.lora_files import LORA, LORA_CONFIG
from llink.bounded import LFS_HINT, Unfit, is_lfs_pointer, read_json
from llink.errors import LlinkError, unknown_name
from llink.home import atomic_write, home, sweep, write_error
from llink.interfaces import Decoder, Encoder, Language, package_folder
from llink.recipe import InjectorChoice, ModelChoice, ProjectorChoice, Teacher

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from llink.adapter.bridge import Bridge

BRIDGE = "bridge.safetensors"
MANIFEST = "manifest.json"
VERSION = 1
"""Of the manifest; an adapter of a later one is refused."""
SHARED = "mul"
"""Code of the language whose adapter reads every other one (ISO 639-2: multiple languages)."""
MAX_SIZE = 1 << 16
"""Of hidden states; the largest models have some 20,000 numbers in each."""


class _Part(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=())


class BridgeSizes(_Part):
    """What ``Bridge.from_config`` builds from."""

    encoder_size: int = Field(ge=1, le=MAX_SIZE)
    decoder_size: int = Field(ge=1, le=MAX_SIZE)
    projector: ProjectorChoice
    injector: InjectorChoice
    slot_norm: float = Field(gt=0, le=1e6)
    packages: list[str] = []


class _Rank(_Part):
    r: int


class _StageB(_Part):
    lora: _Rank


class _Kind(_Part):
    kind: str


class MadeBy(_Part):
    """What of a manifest's ``recipe`` is read again; the rest is for people."""

    name: str
    seed: int
    injector: _Kind
    stage_b: _StageB
    teacher: Teacher = Teacher()


class Manifest(BaseModel):
    """What an adapter is, what it fits, and what it was made of."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    version: int = Field(VERSION, ge=1, le=VERSION)
    language: str
    llink: str = __version__
    encoder: str
    encoder_fingerprint: str
    encoder_signature: str
    encoder_options: dict[str, Any] = {}
    decoder: str
    decoder_fingerprint: str
    slots: int = Field(ge=1, le=64)
    prompt: str
    """Hash of the prompt it was trained on."""
    verbatim: int = Field(0, ge=0, le=512)
    """Tokens that the verbatim channel may have; 0 where the adapter has none."""
    bridge: dict[str, Any]
    files: dict[str, str]
    """sha256 of each weight file."""
    recipe: dict[str, Any]
    data: dict[str, dict[str, Any]]
    """Source -> number of pairs and licence."""
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    init_from: dict[str, Any] = {}
    """Language and file hashes of the adapter that training started from, if any."""

    @field_validator("encoder_options")
    @classmethod
    def _options(cls, options: dict[str, Any]) -> dict[str, Any]:
        return ModelChoice(name="encoder", options=options).options

    @field_validator("recipe")
    @classmethod
    def _made_by(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        MadeBy.model_validate(recipe)
        return recipe

    @field_validator("data")
    @classmethod
    def _licensed(cls, data: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for source, row in data.items():
            if not isinstance(row.get("licence"), str):
                raise ValueError(f"{source}: expected its licence")
            if not all(isinstance(value, str | int | float) for value in row.values()):
                raise ValueError(f"{source}: expected numbers and its licence")
        return data

    @model_validator(mode="after")
    def _fits_its_bridge(self) -> Manifest:
        try:
            sizes = BridgeSizes.model_validate(self.bridge)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"bridge.{where}, which {BRIDGE} is built from: {first['msg']}") from None
        if sizes.injector.most != self.slots:
            raise ValueError(f"slots is {self.slots} and bridge.injector has {sizes.injector.most}")
        return self


def pair_name(encoder: str, decoder: str) -> str:
    """Folder name of an adapter for a pair of models."""
    return f"{_safe(encoder)}--{_safe(decoder)}"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name).strip(".-") or "model"


def find_adapter(
    language: Language, encoder: str, decoder: str, adapter: str | Path | None = None, name: str = ""
) -> Path:
    """The adapter folder to use: a path, or the pair's own under ``LLINK_HOME/adapters`` or in the language's package.

    Args:
        name: as in ``CODE@NAME``: the pair's other adapter of this name, folder ``<encoder>--<decoder>@NAME``, or else
            a folder that is called so.

    Raises:
        LlinkError: E301 when there is none; it names those that exist.
    """
    if adapter is not None:
        folder = Path(adapter)
        if os.path.isfile(folder / MANIFEST):
            return folder
        raise LlinkError(
            "E301", f"No adapter in '{adapter}': {MANIFEST} is missing.", "Give the folder that `llink train` printed."
        )
    roots = adapter_roots(language)
    pair = pair_name(encoder, decoder)
    named = [f"{pair}@{name}", name] if re.fullmatch(r"\w[\w.-]*", name) else []
    for place in [root / own for own in (named if name else [pair]) for root in roots]:
        if os.path.isfile(place / MANIFEST):  # False too where one may not look
            return place
    present = {folder.name for root in roots for folder in adapters_in(root)}
    if name:
        others = {own.removeprefix(f"{pair}@") for own in present if own.startswith(f"{pair}@") or "--" not in own}
        known = [f"{language.code}@{other}" for other in others] + [language.code] * (pair in present)
        raise unknown_name("E301", f"{language.name} adapter", f"{language.code}@{name}", known)
    if present:
        raise unknown_name("E301", f"{language.name} adapter", pair, present)
    raise LlinkError(
        "E301", f"There is no {language.name} adapter for {pair}.", f"Train one: llink train {language.code}"
    )


def adapter_roots(language: Language) -> list[Path]:
    """The folders that a language's adapters lie in: the user's, which go first, and its package's."""
    return [home() / "adapters" / language.code, package_folder(language.package, "adapters")]


def adapters_in(root: Path) -> list[Path]:
    """The adapter folders in a folder, by name; none where one may not look."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    return [root / name for name in names if not name.startswith(".") and os.path.isfile(root / name / MANIFEST)]


def install_adapter(folder: Path, language: Language) -> Path:
    """Copy an adapter to where it is found by its language: the language's own package, or ``LLINK_HOME``.

    A package in ``site-packages`` belongs to pip and is left alone. An adapter that is there is replaced at once.
    """
    manifest = read_manifest(folder)
    package = package_folder(language.package, "adapters")
    own = package.parent.is_dir() and not {"site-packages", "dist-packages"} & set(package.parts)
    place = (package if own else home() / "adapters" / language.code) / pair_name(manifest.encoder, manifest.decoder)
    draft = place.with_name(f".{place.name}.new-{os.getpid()}")
    try:
        shutil.copytree(folder, draft)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise LlinkError(
            "E112", f"The adapter cannot be copied to {place}: {error}.", f"Use it from {folder}."
        ) from error
    put_into_place(draft, place)
    return place


def put_into_place(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``; what was there is moved aside first and then deleted."""
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an adapter folder.

    Raises:
        LlinkError: E310 when it is missing or damaged or a value is out of bounds, E312 when a later LLINK wrote it.
    """
    try:
        raw = read_json(folder / MANIFEST)
    except Unfit as error:
        raise LlinkError("E310", f"Adapter {folder}: {MANIFEST} {error}.", error.hint) from error
    version, maker = raw.get("version", VERSION), str(raw.get("llink", ""))[:40]
    if type(version) is int and version > VERSION:
        raise _later(folder, f"{MANIFEST} is of version {version}, and this one reads up to {VERSION}", maker)
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:100]
        if first["type"] == "extra_forbidden" and _is_later(maker):
            raise _later(folder, f"{MANIFEST} has a key '{where}'", maker) from None
        raise LlinkError("E310", f"Adapter {folder}: {MANIFEST}: {where}: {first['msg']}.") from None


def _is_later(version: str) -> bool:
    try:
        return Version(version) > Version(__version__)
    except InvalidVersion:
        return False


def _later(folder: Path, why: str, maker: str) -> LlinkError:
    by = f" ({maker})" if _is_later(maker) else ""
    return LlinkError(
        "E312",
        f"Adapter {folder} was made by a later version of LLINK{by} than {__version__}: {why}.",
        "pip install -U llink.",
    )


def check_language(folder: Path, manifest: Manifest, language: str) -> None:
    """Refuse an adapter that was trained for another language, and not for all of them; E311."""
    if manifest.language not in (language, SHARED):
        raise LlinkError(
            "E311",
            f"Adapter {folder} was made for the language '{manifest.language}', not for '{language}'.",
            f"Use it with --language {manifest.language}, or train one that begins from it: init_from in a recipe.",
        )


def check(folder: Path, manifest: Manifest, encoder: Encoder, decoder: Decoder) -> None:
    """Refuse an adapter that is damaged or made for other models.

    Raises:
        LlinkError: E311 for another encoder, decoder or prompt, E310 for a damaged weight file.
    """
    from llink.adapter.prompt import fingerprint

    made_for = {
        "encoder": (manifest.encoder, manifest.encoder_signature, encoder.name, encoder.signature),
        "decoder": (manifest.decoder, manifest.decoder_fingerprint, decoder.name, decoder.fingerprint),
    }
    for role, (name, wanted, present, actual) in made_for.items():
        if wanted != actual:
            raise LlinkError(
                "E311",
                f"Adapter {folder} was made for the {role} '{name}', not for '{present}' as loaded here.",
                "Load that model, or train an adapter for this one.",
            )
    sizes = (manifest.bridge["encoder_size"], manifest.bridge["decoder_size"])
    if sizes != (encoder.hidden_size, decoder.hidden_size):
        raise LlinkError(
            "E310",
            f"Adapter {folder}: {MANIFEST} has a bridge of sizes {sizes}, the models have "
            f"{(encoder.hidden_size, decoder.hidden_size)}.",
            "Fetch or train it again.",
        )
    if manifest.prompt != fingerprint(decoder, manifest.slots, manifest.verbatim):
        raise LlinkError(
            "E311", f"Adapter {folder} was trained on another prompt than this version builds.", "Retrain it."
        )
    for name, wanted in {**dict.fromkeys((BRIDGE, LORA, LORA_CONFIG), ""), **manifest.files}.items():
        path = folder / name
        if Path(name).name == name and is_lfs_pointer(path):
            raise LlinkError("E310", f"Adapter {folder}: {name} is a Git LFS pointer, not the file itself.", LFS_HINT)
        if Path(name).name != name or not os.path.isfile(path) or file_hash(path) != wanted:
            raise LlinkError("E310", f"Adapter {folder}: {name} is missing or damaged.", "Fetch or train it again.")


def file_hash(path: Path) -> str:
    """sha256 of a file of an adapter."""
    # In one call, which lets other threads work; block by block it would wait for them at every block.
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_bridge(folder: Path, manifest: Manifest) -> Bridge:
    """The bridge in float32, ready to use.

    Raises:
        LlinkError: E310 when tensors are missing, misshapen or not finite; E203 or E204 when the plugin of its projector
            or slot injector is not installed.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        # Copied off the memory map: a file that is written over must not reach a resident adapter.
        tensors = {name: t.to(torch.float32, copy=True) for name, t in load_file(folder / BRIDGE).items()}
        bridge = rebuilt(manifest.bridge, tensors)
    except LlinkError as error:
        if error.code == "E408":
            raise LlinkError("E310", f"Adapter {folder}: {MANIFEST}: {error.message}") from error
        packages = " ".join(manifest.bridge.get("packages", ()))
        remedy = f"pip install {packages}" if packages else "Install the plugin that brings it"
        raise LlinkError(error.code, f"Adapter {folder}: {error.message}", f"{remedy}. {error.hint}") from error
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise LlinkError("E310", f"Adapter {folder}: {BRIDGE} does not fit its manifest ({reason}).") from error
    # A sum is not finite if any of its terms is not, and is the quickest way to look at them all.
    if not all(tensor.sum().isfinite() for tensor in tensors.values()):
        raise LlinkError("E310", f"Adapter {folder}: {BRIDGE} holds values that are not finite.")
    return bridge.eval().requires_grad_(False)


def rebuilt(config: dict[str, Any], tensors: dict[str, Tensor]) -> Bridge:
    """The bridge of a manifest's ``bridge`` and of all its tensors by name, in float32."""
    import torch

    from llink.adapter.bridge import Bridge

    # Weights that are about to be replaced need neither memory nor a random start.
    with torch.device("meta"):
        bridge = Bridge.from_config(config)
    bridge.load_state_dict(tensors, assign=True)
    if any(t.is_meta for t in (*bridge.parameters(), *bridge.buffers())):  # buffers that no file keeps
        bridge = Bridge.from_config(config)
        bridge.load_state_dict(tensors)
    return bridge


def kept(bridge: Bridge) -> dict[str, Tensor]:
    """The tensors of a bridge as its adapter keeps them: weights in bfloat16, the standardisation exact."""
    import torch

    # A deviation rounded to bfloat16 shifts every feature by up to 0.4 %.
    exact = {"reserved"} | {name for name, _ in bridge.named_buffers()}
    return {
        name: (t.float() if name in exact else t.to(torch.bfloat16)).cpu().contiguous()
        for name, t in bridge.state_dict().items()
    }


def save_adapter(folder: Path, bridge: Bridge, lora: PeftModel, manifest: dict[str, Any]) -> Manifest:
    """Write an adapter folder: weights in bfloat16, a clean PEFT LoRA, manifest and card.

    Everything is written beside ``folder`` and renamed into place, so no half adapter is ever seen.

    Args:
        manifest: the fields of ``Manifest`` but ``bridge``, ``files`` and ``slots``.

    Raises:
        LlinkError: E112 when it cannot be written, E113 when the disk is full; what was there stays.
    """
    from safetensors import SafetensorError

    if os.path.isdir(folder.parent):
        sweep(folder.parent)
    new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        return _save(folder, new, bridge, lora, manifest)
    except (OSError, SafetensorError) as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _save(folder: Path, new: Path, bridge: Bridge, lora: PeftModel, manifest: dict[str, Any]) -> Manifest:
    """``save_adapter`` by way of ``new``."""
    import torch
    from safetensors.torch import load_file, save_file

    from llink.adapter.card import write_card

    new.mkdir(parents=True)
    save_file(kept(bridge), new / BRIDGE)
    lora.save_pretrained(str(new))
    for stray in new.glob("*.md"):
        stray.unlink()
    save_file(
        {k: v.to(torch.bfloat16) for k, v in load_file(new / LORA).items()}, new / LORA, metadata={"format": "pt"}
    )
    config = json.loads((new / LORA_CONFIG).read_text(encoding="utf-8"))
    # A folder on this machine means nothing elsewhere; the manifest names the base.
    config.update(base_model_name_or_path=manifest["decoder"], target_modules=sorted(config["target_modules"]))
    (new / LORA_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for weights in new.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes for the owner alone; an adapter is shared
    files = {name: file_hash(new / name) for name in (BRIDGE, LORA, LORA_CONFIG)}
    full = Manifest(**manifest, slots=bridge.slots, bridge=bridge.config, files=files)
    atomic_write(new / MANIFEST, full.model_dump_json(indent=2) + "\n")
    write_card(new, full, folder.name)
    put_into_place(new, folder)
    return full


def record_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Put measured numbers into an adapter's manifest, suite by suite, and write its card anew."""
    from llink.adapter.card import write_card

    manifest = read_manifest(folder)
    full = manifest.model_copy(update={"metrics": {**manifest.metrics, **metrics}})
    atomic_write(folder / MANIFEST, full.model_dump_json(indent=2) + "\n")
    write_card(folder, full)
