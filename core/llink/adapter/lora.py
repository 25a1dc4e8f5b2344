"""LoRA of many adapters beside one frozen decoder, chosen row by row.

The decoder's modules and weights are never changed. A forward hook on each projection adds ``B(A x)`` of the row's
LoRA; while none is chosen the hook passes the projection's own output on, bit for bit. To choose is one assignment,
whatever the number of layers, and rows of one batch may choose differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llink.adapter.lora_files import read_lora
from llink.errors import LlinkError
from llink.interfaces import Decoder

LARGEST = 1e4
"""Of a weight, the scaling in it. Trained ones stay below 10; from here on the sums leave what float16 holds."""


@dataclass(frozen=True, eq=False)
class Lora:
    """One adapter's LoRA: projection name -> A ``[r, in]`` and B ``[out, r]``, the scaling already in B."""

    weights: dict[str, tuple[Tensor, Tensor]]

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        return sum(t.nbytes for pair in self.weights.values() for t in pair)

    @classmethod
    def load(cls, folder: Path, decoder: Decoder) -> Lora:
        """Read an adapter's LoRA onto the decoder's device, in its number format.

        Raises:
            LlinkError: E310 when it cannot be read, does not fit the decoder or holds values that are not finite or
                beyond ``LARGEST``, E312 for a kind of LoRA that is not served.
        """
        tensors, scaling = read_lora(folder, decoder)
        names = sorted({key.rsplit(".lora_", 1)[0] for key in tensors})
        like = decoder.embedding_matrix()
        halves = []
        for half, scale in (("A", 1.0), ("B", scaling)):
            parts = [tensors[f"{name}.lora_{half}.weight"] for name in names]
            # In one piece, because hundreds of small copies take longer. It also brings them off the memory map: a
            # file that is written over must not reach a resident adapter.
            whole = (torch.cat([part.flatten() for part in parts]).float() * scale).to(like.device, like.dtype)
            if whole.numel() and not whole.abs().max() <= LARGEST:
                raise LlinkError(
                    "E310",
                    f"Adapter {folder}: LoRA {half} has values beyond {LARGEST:g}, which no training gives.",
                    "Fetch or train it again.",
                )
            pieces = whole.split([part.numel() for part in parts])
            halves.append([piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)])
        return cls({name.removeprefix("base_model.model."): (a, b) for name, a, b in zip(names, *halves, strict=True)})


Rows = Lora | None | Sequence[Lora | None]


class LoraSwitch:
    """Says which LoRA the decoder computes with; each thread, or asynchronous task, chooses for itself.

    Args:
        decoder: gets one forward hook a projection in its ``lora_targets``; ``close`` takes them off again.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.chosen: ContextVar[_One | _Mixed | None] = ContextVar("lora", default=None)
        self.number = next(_numbers)
        _switches[self.number] = self
        model: Any = decoder.model
        self._hooks = [
            module.register_forward_hook(partial(self._add, name))
            for name, module in model.named_modules()
            if name.rsplit(".", 1)[-1] in decoder.lora_targets
        ]

    def close(self) -> None:
        """Take the hooks off the decoder."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def using(self, rows: Rows) -> Iterator[None]:
        """Within the block this thread's passes through the decoder carry a LoRA.

        Args:
            rows: one for every row; None for the bare decoder; or one a row of the batch, None among them.
        """
        before = self.chosen.set(_choice(rows))
        try:
            yield
        finally:
            self.chosen.reset(before)

    def choose(self, rows: Rows) -> None:
        """From here on this thread's passes carry a LoRA; ``rows`` as for ``using``."""
        self.chosen.set(_choice(rows, self.chosen.get()))

    def _add(self, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if torch.compiler.is_compiling():
            return torch.ops.llink.lora(args[0], output, self.number, name)
        chosen = self.chosen.get()
        return None if chosen is None else chosen(name, args[0], output)


_numbers = count()
_switches: WeakValueDictionary[int, LoraSwitch] = WeakValueDictionary()


@torch.library.custom_op("llink::lora", mutates_args=())
def _lora(x: Tensor, output: Tensor, switch: int, name: str) -> Tensor:
    """The hook as one operator that torch.compile does not look into: no graph is made anew for an adapter."""
    owner = _switches.get(switch)
    chosen = owner.chosen.get() if owner else None
    result = output if chosen is None else chosen(name, x, output)
    return output.clone() if result is output else result


@_lora.register_fake
def _(x: Tensor, output: Tensor, switch: int, name: str) -> Tensor:
    return torch.empty_like(output)


def _choice(rows: Rows, before: _One | _Mixed | None = None) -> _One | _Mixed | None:
    if rows is None or isinstance(rows, Lora):
        return None if rows is None else _One(rows)
    distinct = list(dict.fromkeys(rows))
    return _choice(distinct[0]) if len(distinct) == 1 else _Mixed(rows, before)


class _One:
    """The same LoRA in every row."""

    def __init__(self, lora: Lora) -> None:
        self.weights = lora.weights

    def __call__(self, name: str, x: Tensor, output: Tensor) -> Tensor:
        if name not in self.weights:
            return output
        a, b = self.weights[name]
        return output + F.linear(F.linear(x, a), b)


class _Mixed:
    """A LoRA a row: all that the batch needs side by side, as one of a larger rank, each row blind to the others' part.

    The matrices are put side by side once a projection and serve every step of a generation.

    Args:
        before: what was chosen until now; where it has the same LoRAs, for other rows, its matrices serve on.
    """

    def __init__(self, rows: Sequence[Lora | None], before: _One | _Mixed | None = None) -> None:
        self.rows = rows
        self.distinct = [lora for lora in dict.fromkeys(rows) if lora is not None]
        self.stacks: dict[str, tuple[Tensor, Tensor, tuple[int, ...]] | None] = {}
        self.blind: dict[tuple[int, ...], Tensor] = {}
        if isinstance(before, _Mixed) and set(before.distinct) == set(self.distinct):
            self.distinct, self.stacks = before.distinct, before.stacks

    def _stack(self, name: str) -> tuple[Tensor, Tensor, tuple[int, ...]] | None:
        """A ``[R, in]`` and B ``[out, R]`` of all, R the sum of the ranks; and whose each of the R is."""
        own = [(number, lora) for number, lora in enumerate(self.distinct) if name in lora.weights]
        if not own:
            return None
        downs, ups = zip(*(lora.weights[name] for _, lora in own), strict=True)
        owners = tuple(number for (number, _), a in zip(own, downs, strict=True) for _ in a)
        return torch.cat(downs), torch.cat(ups, dim=1), owners

    def _blind(self, owners: tuple[int, ...], device: torch.device) -> Tensor:
        """Where a row is blind, ``[B, 1, R]``."""
        if owners not in self.blind:
            blind = [[row is not self.distinct[number] for number in owners] for row in self.rows]
            self.blind[owners] = torch.tensor(blind, device=device)[:, None]
        return self.blind[owners]

    def __call__(self, name: str, x: Tensor, output: Tensor) -> Tensor:
        if name not in self.stacks:
            self.stacks[name] = self._stack(name)
        stack = self.stacks[name]
        if stack is None:
            return output
        down, up, owners = stack
        # Beam search has several neighbouring rows for one.
        blind = self._blind(owners, down.device).repeat_interleave(len(x) // len(self.rows), dim=0)
        return output + F.linear(F.linear(x, down).masked_fill(blind, 0), up)
