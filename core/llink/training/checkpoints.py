"""Checkpoints: everything that a training step depends on, in one safetensors file, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llink.errors import LlinkError
from llink.home import drafted


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file beside ``path``, then rename it over; E406 when that cannot be."""
    try:
        with drafted(path, path.with_name(f".{path.name}.new")) as draft:
            ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(ready, draft, metadata=dict(about) if about else None)
            with draft.open("rb") as file:
                os.fsync(file.fileno())  # or a power cut could leave the new name with none of its bytes
    except (OSError, SafetensorError) as error:
        raise LlinkError(
            "E406", f"{path} cannot be written: {error}.", "Free some space and go on with --resume."
        ) from error


class Checkpoint:
    """Trainable weights, optimizer moments and step number; randomness has no state, see ``llink.training.loop``.

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

    def save(self, path: Path, step: int, *, write: bool = True) -> None:
        """Write a file beside ``path``, then rename it over: a kill leaves the old one or the new one, never a half.

        Args:
            write: False on all ranks but one; sharded tensors are put together with the help of all.
        """
        tensors = {f"module/{m}/{k}": v for m, module in self.modules.items() for k, v in _trained(module).items()}
        tensors |= {f"extra/{k}": v for k, v in self.tensors.items()}
        for name, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{index}/{k}": torch.as_tensor(v) for k, v in state.items()}
        tensors = {k: whole(v.detach()).to("cpu").contiguous() for k, v in tensors.items()}
        if not write:
            return
        write_tensors(path, tensors, {"step": str(step)})

    def load(self, path: Path) -> int:
        """Take up the state in ``path`` and return the step to go on from; 0 where there is none.

        Raises:
            LlinkError: E403 when the checkpoint belongs to another recipe or is damaged.
        """
        if not path.exists():
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                step = int(file.metadata()["step"])
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            for name, module in self.modules.items():
                for key, value in _trained(module).items():
                    value.data.copy_(like(value, state[f"module/{name}/{key}"]))
            for name, optimizer in self.optimizers.items():
                _load_optimizer(optimizer, state, f"optimizer/{name}/")
            self.tensors = {k: state[f"extra/{k}"] for k in self.tensors}
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise LlinkError(
                "E403",
                f"Checkpoint {path} does not fit this run ({' '.join(str(error).split())[:120]}).",
                "Use the same recipe, or another --out.",
            ) from error
        return step


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP has sharded put together (all ranks must ask for it); any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(model: Tensor, value: Tensor) -> Tensor:
    """``value`` sharded as ``model`` is, if it is."""
    if not hasattr(model, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = model
    return distribute_tensor(value.to(sharded.device), sharded.device_mesh, sharded.placements)


def _trained(module: nn.Module) -> dict[str, Tensor]:
    trained = {k: p for k, p in module.named_parameters() if p.requires_grad}
    return trained | {k: b for k, b in module.named_buffers() if b.is_floating_point() and "rotary" not in k}


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor], prefix: str) -> None:
    current: dict[str, Any] = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith(prefix):
            index, name = key.removeprefix(prefix).split("/")
            own = parameters[int(index)]
            moments.setdefault(int(index), {})[name] = like(own, value) if value.shape == own.shape else value
    optimizer.load_state_dict({"state": moments, "param_groups": current["param_groups"]})
