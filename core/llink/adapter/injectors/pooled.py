"""The paper's slot injector: K slots out of one projected vector."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llink.interfaces import SlotInjector


class PooledInjector(nn.Module, SlotInjector):
    """Unit norm -> LayerNorm -> scale, gated residual adapter, expander ``D -> 2D -> K*D``, LayerNorm.

    The first slot starts as the projected vector itself (for a teacher in the decoder's input space that is
    already readable), and all slots start at the norm of an ordinary embedding row. Source: paper, section 3.

    Args:
        decoder_size: D.
        slots: K.
        slot_norm: median norm of the decoder's embedding rows.
        width: inner width of the gated adapter.
        gate: initial value of the gate, before tanh; the same in training and inference.
    """

    needs_states: ClassVar[bool] = False

    def __init__(
        self, decoder_size: int, slots: int, slot_norm: float, width: int = 256, gate: float = 0.1, **_: Any
    ) -> None:
        super().__init__()
        self.slots = slots
        self.norm_in = nn.LayerNorm(decoder_size)
        self.scale = nn.Parameter(torch.ones(()))
        self.gate = nn.Parameter(torch.tensor(gate))
        self.adapter = nn.Sequential(nn.Linear(decoder_size, width), nn.GELU(), nn.Linear(width, decoder_size))
        self.expander = nn.Sequential(
            nn.Linear(decoder_size, 2 * decoder_size), nn.GELU(), nn.Linear(2 * decoder_size, slots * decoder_size)
        )
        self.norm_out = nn.LayerNorm(decoder_size)
        nn.init.constant_(self.norm_out.weight, slot_norm / decoder_size**0.5)

    def forward(
        self, projected: Tensor, states: Tensor | None = None, mask: Tensor | None = None, slots: int | None = None
    ) -> Tensor:
        """pF ``[B, D]`` -> slots ``[B, k, D]``, the first of K; the token states are not read."""
        x = self.norm_in(nn.functional.normalize(projected, dim=-1)) * self.scale
        x = x + torch.tanh(self.gate) * self.adapter(x)
        rows = self.expander(x).view(-1, self.slots, x.shape[-1])[:, :slots]
        rows = torch.cat([rows[:, :1] + x[:, None], rows[:, 1:]], dim=1)
        return self.norm_out(rows)
