"""The paper's projector: a two-layer perceptron with GELU, dropout and LayerNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llink.interfaces import Projector


class MLPProjector(nn.Module, Projector):
    """``H -> hidden -> D`` (paper, section 3: 768 -> 3072 -> 2048, dropout 0.10).

    The input is standardised with the training mean and deviation, kept in the adapter: middle layers of
    an encoder have a few coordinates hundreds of times larger than the rest, which would drown the others.
    The output lives in the *centred* teacher space; ``teacher_mean`` is kept to leave it again.

    Args:
        encoder_size: H.
        decoder_size: D.
        hidden: width of the hidden layer.
        dropout: on the hidden layer.
    """

    input_mean: Tensor
    input_std: Tensor
    teacher_mean: Tensor

    def __init__(self, encoder_size: int, decoder_size: int, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.up = nn.Linear(encoder_size, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(hidden, decoder_size)
        self.register_buffer("input_mean", torch.zeros(encoder_size))
        self.register_buffer("input_std", torch.ones(encoder_size))
        self.register_buffer("teacher_mean", torch.zeros(decoder_size))

    def fit_input(self, pooled: Tensor) -> None:
        """Take mean and deviation from training vectors ``[N, H]``."""
        self.input_mean.copy_(pooled.mean(0))
        self.input_std.copy_(pooled.std(0).clamp(min=1e-6))

    def forward(self, pooled: Tensor) -> Tensor:
        """zF ``[B, H]`` -> pF ``[B, D]``."""
        x = (pooled.to(self.input_mean.dtype) - self.input_mean) / self.input_std
        return self.down(self.dropout(self.norm(nn.functional.gelu(self.up(x)))))
