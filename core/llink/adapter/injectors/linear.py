"""The plainest slot injector that keeps word order: token states averaged by stride, and one linear map."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llink.interfaces import SlotInjector


class LinearInjector(nn.Module, SlotInjector):
    """A slot a stretch of tokens: k equal stretches of each text, averaged, ``H -> D``, plus a map ``D -> D`` of pF.

    One linear map from the encoder's states to soft tokens is what LLaVA (arXiv 2304.08485, section 4.1) does with the
    patches of an image. With k as large as the text has tokens, a slot is a token.

    Args:
        encoder_size: H.
        decoder_size: D.
        slots: K.
        slot_norm: median norm of the decoder's embedding rows.
    """

    needs_states: ClassVar[bool] = True
    state_mean: Tensor
    state_std: Tensor

    def __init__(self, encoder_size: int, decoder_size: int, slots: int, slot_norm: float, **_: Any) -> None:
        super().__init__()
        self.slots = slots
        self.register_buffer("state_mean", torch.zeros(encoder_size))
        self.register_buffer("state_std", torch.ones(encoder_size))
        self.read = nn.Linear(encoder_size, decoder_size)
        self.sentence = nn.Linear(decoder_size, decoder_size, bias=False)
        self.norm_out = nn.LayerNorm(decoder_size)
        nn.init.constant_(self.norm_out.weight, slot_norm / decoder_size**0.5)

    def fit_input(self, states: Tensor) -> None:
        """Take mean and deviation from training token states ``[N, H]``."""
        self.state_mean.copy_(states.mean(0))
        self.state_std.copy_(states.std(0).clamp(min=1e-6))

    def forward(self, projected: Tensor, states: Tensor, mask: Tensor, slots: int | None = None) -> Tensor:
        """pF ``[B, D]``, states ``[B, T, H]``, mask ``[B, T]`` -> slots ``[B, k, D]``, each of its share of the text."""
        x = (states.to(self.state_mean.dtype) - self.state_mean) / self.state_std
        x = stretches(mask, slots or self.slots).to(x.dtype) @ x.masked_fill(~mask[..., None], 0)
        sentence = nn.functional.normalize(projected, dim=-1) * projected.shape[-1] ** 0.5
        return self.norm_out(self.read(x) + self.sentence(sentence)[:, None])


def stretches(mask: Tensor, count: int) -> Tensor:
    """mask ``[B, T]`` -> weights ``[B, k, T]``: k means over equal stretches of a text, parts of tokens as parts."""
    length = mask.sum(1, keepdim=True).clamp(min=1)[..., None]  # [B, 1, 1]
    start = (mask.cumsum(1) - 1)[:, None]  # [B, 1, T]: of a token, in tokens of its text
    first = torch.arange(count, device=mask.device)[:, None] * length / count  # [B, k, 1]: of a stretch
    overlap = torch.minimum(start + 1, first + length / count) - torch.maximum(start, first)
    return overlap.clamp(min=0) * mask[:, None] * count / length
