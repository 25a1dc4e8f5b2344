"""What a stranger's adapter must be before any of it is used: few files, of known names, small, whole, and no pickles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from llink.adapter.files import BRIDGE, LORA, MANIFEST, Manifest, file_hash, read_manifest
from llink.adapter.lora_files import LORA_CONFIG, read_lora_config
from llink.errors import LlinkError

WEIGHTS = (BRIDGE, LORA, LORA_CONFIG)
"""What the manifest has a sha256 of."""
PARTS = (*WEIGHTS, MANIFEST)
CARD = "README.md"
SHARED = (*PARTS, CARD)
"""What is shared of an adapter, and all that is taken in."""
BESIDE = (".gitattributes", ".gitignore", "LICENSE", "LICENCE", "LICENSE.md", "LICENSE.txt", "NOTICE")
"""What a repository may have beside it; it is left there."""
PICKLES = (
    ".bin",
    ".ckpt",
    ".dill",
    ".joblib",
    ".mar",
    ".npy",
    ".npz",
    ".pickle",
    ".pkl",
    ".pt",
    ".pth",
    ".pyc",
    ".h5",
    ".keras",
)
"""Formats that can run code when they are read."""
MOST = 1 << 29
"""Bytes of an adapter; the shipped ones have some 23 MB."""
MOST_OF_TEXT = 1 << 23
"""Bytes of a file that is not weights."""


def check_listing(where: str, sizes: Mapping[str, int]) -> None:
    """Refuse files by name and size, before any is fetched or unpacked.

    Args:
        sizes: path -> bytes, of all that is there.

    Raises:
        LlinkError: E323 for pickles, code and files of other names, E322 where one is missing, E324 for too much.
    """
    for name in sorted(sizes):
        if PurePosixPath(name).suffix.lower() in PICKLES:
            raise LlinkError(
                "E323",
                f"{where} holds {name}, a format that can run code when it is read.",
                "An adapter is safetensors and JSON; ask its author for one made by `llink push`.",
            )
        if name not in SHARED and name not in BESIDE:
            raise LlinkError(
                "E323",
                f"{where} holds {name[:100]!r}, which belongs to no adapter.",
                f"An adapter is {', '.join(SHARED)}, all in one place.",
            )
    missing = [name for name in PARTS if name not in sizes]
    if missing:
        raise LlinkError(
            "E322", f"{where} is no whole adapter: {', '.join(missing)} is missing.", "Take another, or fetch it again."
        )
    for name, size in sizes.items():
        most = MOST if name.endswith(".safetensors") else MOST_OF_TEXT
        if size > most:
            raise LlinkError(
                "E324", f"{where}: {name} has {size / 1e6:,.0f} MB, and {most / 1e6:,.0f} MB is the limit.", _LARGE
            )
    if (total := sum(sizes.values())) > MOST:
        raise LlinkError("E324", f"{where} has {total / 1e6:,.0f} MB, and {MOST / 1e6:,.0f} MB is the limit.", _LARGE)


_LARGE = "An adapter has some 20 MB; this is something else."


def check_folder(folder: Path, where: str, promised: Mapping[str, str] | None = None) -> Manifest:
    """The manifest of an adapter that arrived in ``folder``, all of it checked.

    Args:
        where: it comes from, for messages.
        promised: file -> sha256 that it was said to have, or had when it was pinned.

    Raises:
        LlinkError: E322 for a file that is not what manifest or sender say, or no safetensors, E323 for a link or a pickle
            under another name, and E310, E312 of manifest and LoRA.
    """
    for name in PARTS:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise LlinkError("E323" if path.is_symlink() else "E322", f"{where}: {name} is no file.", "Fetch it again.")
        if name.endswith(".safetensors"):
            _check_safetensors(path, where)
    for name, wanted in (promised or {}).items():
        if name in PARTS and file_hash(folder / name) != wanted:
            raise _changed(where, name)
    manifest = read_manifest(folder)
    if set(manifest.files) - set(WEIGHTS):
        raise LlinkError("E323", f"{where}: {MANIFEST} names other files than an adapter has.", "Take another.")
    for name in WEIGHTS:
        if file_hash(folder / name) != manifest.files.get(name):
            raise _changed(where, name)
    read_lora_config(folder)
    return manifest


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file that makes an adapter."""
    return {name: file_hash(folder / name) for name in PARTS}


def sizes(folder: Path) -> dict[str, int]:
    """Path -> bytes of all below a folder, hidden ones too; a link counts as a file of its name."""
    found = {}
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*files, *links):
            path = Path(root) / name
            found[path.relative_to(folder).as_posix()] = path.lstat().st_size
    return found


def _check_safetensors(path: Path, where: str) -> None:
    """Refuse weights that are none. A pickle that was given the name of safetensors is called one."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80" or start == b"PK\x03\x04":
        raise LlinkError("E323", f"{where}: {path.name} is a pickle under another name.", "Do not use it.")
    try:
        with safe_open(path, "numpy") as tensors:
            tensors.keys()
    except (SafetensorError, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise LlinkError("E322", f"{where}: {path.name} is cut off or damaged ({said}).", "Fetch it again.") from error


def _changed(where: str, name: str) -> LlinkError:
    return LlinkError(
        "E322",
        f"{where}: {name} is not the file that was promised (its sha256 is another).",
        "Fetch it again; if it stays so, it was tampered with: do not use it.",
    )
