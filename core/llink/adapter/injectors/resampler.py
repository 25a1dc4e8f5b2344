"""The default slot injector: K queries read the encoder's token states."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llink.interfaces import SlotInjector


class ResamplerInjector(nn.Module, SlotInjector):
    """K learned queries, conditioned on pF, cross-attend to the token states.

    One pooled vector keeps the gist and loses the order; the token states keep both. The cross-attention
    follows the resamplers of vision-language models (Flamingo, arXiv 2204.14198, section 3.1.1; Q-Former,
    arXiv 2301.12597); conditioning on the aligned vector and the output at embedding norm are the paper's.

    Args:
        encoder_size: H.
        decoder_size: D.
        slots: K.
        slot_norm: median norm of the decoder's embedding rows.
        width: inner width.
        depth: number of blocks.
        heads: attention heads.
        positions: token states beyond this many share the last position.
    """

    needs_states: ClassVar[bool] = True
    state_mean: Tensor
    state_std: Tensor

    def __init__(
        self,
        encoder_size: int,
        decoder_size: int,
        slots: int,
        slot_norm: float,
        width: int = 384,
        depth: int = 2,
        heads: int = 6,
        positions: int = 256,
        **_: Any,
    ) -> None:
        super().__init__()
        self.slots = slots
        self.register_buffer("state_mean", torch.zeros(encoder_size))
        self.register_buffer("state_std", torch.ones(encoder_size))
        self.read = nn.Linear(encoder_size, width)
        self.read_norm = nn.LayerNorm(width)
        self.position = nn.Embedding(positions, width)
        self.query = nn.Parameter(torch.randn(slots, width) * 0.5)
        self.scale = nn.Parameter(torch.ones(()))
        self.sentence = nn.Linear(decoder_size, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.out = nn.Linear(width, decoder_size)
        self.norm_out = nn.LayerNorm(decoder_size)
        nn.init.normal_(self.position.weight, std=0.2)
        nn.init.constant_(self.norm_out.weight, slot_norm / decoder_size**0.5)

    def fit_input(self, states: Tensor) -> None:
        """Take mean and deviation from training token states ``[N, H]``."""
        self.state_mean.copy_(states.mean(0))
        self.state_std.copy_(states.std(0).clamp(min=1e-6))

    def forward(self, projected: Tensor, states: Tensor, mask: Tensor, slots: int | None = None) -> Tensor:
        """pF ``[B, D]``, states ``[B, T, H]``, mask ``[B, T]`` -> slots ``[B, k, D]``.

        They are made by the first k queries together: each knows how many there are, and takes its share of the text.
        """
        places = torch.arange(states.shape[1], device=states.device).clamp(max=self.position.num_embeddings - 1)
        memory = self.read((states.to(self.state_mean.dtype) - self.state_mean) / self.state_std)
        memory = self.read_norm(memory) + self.position(places)
        sentence = nn.functional.normalize(projected, dim=-1) * projected.shape[-1] ** 0.5
        x = self.query[:slots] + self.scale * self.sentence(sentence)[:, None]
        for block in self.blocks:
            x = block(x, memory, mask[:, None, None])
        return self.norm_out(self.out(x))


class _Block(nn.Module):
    """Cross-attention to the text, self-attention among the slots, perceptron; each pre-normed and residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.cross_q = nn.Linear(width, width)
        self.cross_kv = nn.Linear(width, 2 * width)
        self.cross_o = nn.Linear(width, width)
        self.self_qkv = nn.Linear(width, 3 * width)
        self.self_o = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        k, v = self.cross_kv(memory).chunk(2, dim=-1)
        x = x + self.cross_o(self._attend(self.cross_q(self.norms[0](x)), k, v, mask))
        x = x + self.self_o(self._attend(*self.self_qkv(self.norms[1](x)).chunk(3, dim=-1)))
        return x + self.mlp(self.norms[2](x))
