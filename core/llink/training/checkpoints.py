"""Checkpoints: everything that a training step depends on, in safetensors, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llink.errors import LlinkError


class Checkpoint:
    """Trainable weights, optimizer moments, random state and step number as one folder.

    Args:
        modules: name -> module; only parameters that require gradients and buffers are kept.
        optimizers: name -> AdamW (or any optimizer whose state is tensors).
        tensors: further state, by name.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.modules, self.optimizers, self.tensors = modules, optimizers, dict(tensors or {})

    def save(self, folder: Path, step: int) -> None:
        """Write beside ``folder``, then rename over it: a kill leaves the old or the new one, never a half."""
        tensors = {f"module/{m}/{k}": v for m, module in self.modules.items() for k, v in _trained(module).items()}
        tensors |= {f"extra/{k}": v for k, v in self.tensors.items()}
        tensors["rng/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng/cuda"] = torch.cuda.get_rng_state()
        for name, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{index}/{k}": torch.as_tensor(v) for k, v in state.items()}
        new, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        save_file({k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}, new / "state.safetensors")
        (new / "step.json").write_text(json.dumps({"step": step}))
        # rename() cannot replace a folder that is not empty: the old one steps aside first.
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
        shutil.rmtree(old, ignore_errors=True)

    def load(self, folder: Path) -> int:
        """Take up the state in ``folder`` and return the step to go on from; 0 where there is none.

        Raises:
            LlinkError: E403 when the checkpoint belongs to another recipe or is damaged.
        """
        old = folder.with_name(f".{folder.name}.old")
        if not folder.exists() and old.exists():
            os.rename(old, folder)
        if not folder.exists():
            return 0
        try:
            state = load_file(folder / "state.safetensors")
            step = int(json.loads((folder / "step.json").read_text())["step"])
            for name, module in self.modules.items():
                own = _trained(module)
                for key, value in own.items():
                    value.data.copy_(state[f"module/{name}/{key}"])
            for name, optimizer in self.optimizers.items():
                _load_optimizer(optimizer, state, f"optimizer/{name}/")
            self.tensors = {k: state[f"extra/{k}"] for k in self.tensors}
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise LlinkError(
                "E403", f"Checkpoint {folder} does not fit this run ({' '.join(str(error).split())[:120]}).",
                "Use the same recipe, or another --out.",
            ) from error  # fmt: skip
        torch.set_rng_state(state["rng/cpu"])
        if "rng/cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["rng/cuda"])
        return step


def _trained(module: nn.Module) -> dict[str, Tensor]:
    trained = {k: p for k, p in module.named_parameters() if p.requires_grad}
    return trained | {k: b for k, b in module.named_buffers() if b.is_floating_point() and "rotary" not in k}


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor], prefix: str) -> None:
    current: dict[str, Any] = optimizer.state_dict()
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith(prefix):
            index, name = key.removeprefix(prefix).split("/")
            moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": current["param_groups"]})
