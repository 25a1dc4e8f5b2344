"""More adapters for the tiny pair: the trained Khmer one, copied and shaken with a fixed seed, its manifest made to agree."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llink.adapter.files import BRIDGE, LORA, MANIFEST

GREETING = {"km": "", "am": "ሰላም ", "my": "မင်္ဂလာပါ "}
"""Put before a Khmer sample it makes a text that passes for the language and that the tiny encoder can tell apart."""


def variant(source: Path, folder: Path, language: str, seed: int) -> Path:
    """An adapter of other weights for ``language``, in ``folder``."""
    shutil.copytree(source, folder)
    draw = torch.Generator().manual_seed(seed)
    for name in (BRIDGE, LORA):
        tensors = load_file(folder / name)
        for key, value in tensors.items():
            if "mean" not in key and "std" not in key:
                noise = torch.randn(value.shape, generator=draw) * (0.2 if "lora" in key else 0.05)
                tensors[key] = (value.float() + noise).to(value.dtype)
        save_file(tensors, folder / name, metadata={"format": "pt"})
    rehash(folder, language)
    return folder


def rehash(folder: Path, language: str | None = None) -> None:
    """Make the manifest agree with the files, and with the language if one is given."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["language"] = language or manifest["language"]
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
