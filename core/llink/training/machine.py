"""What a run ran on: hardware in words, commit, library versions; and the most memory it has had."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("llink", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "safetensors", "numpy")


def environment() -> dict[str, Any]:
    """Hardware, commit (None outside a checkout), Python and library versions, for ``time_and_memory.json``."""
    return {
        "hardware": hardware(),
        "commit": commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def hardware() -> str:
    """Cores, memory and GPUs of this machine, in words."""
    words = [f"{os.cpu_count()} CPU cores ({_processor()})"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        words.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB memory")
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = [f"{card.name}, {card.total_memory / 1e9:.0f} GB" for card in cards]
    words += [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return "; ".join(words)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the checkout that this code lies in, with ``-dirty`` behind it where files were changed since."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here.parent), *arguments], check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    try:
        # An installed copy may lie in somebody else's checkout.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has had: of the GPU, else of the machine; 0 where it cannot be told."""
    return gpu_peak() if device.type == "cuda" else process_peak()


def gpu_peak() -> int:
    """The most bytes torch has held on this process's GPU; 0 where there is none."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def process_peak() -> int:
    """The most bytes of the machine's memory this process has had; 0 where the system cannot say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
