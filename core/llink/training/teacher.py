"""Teacher states: what the frozen decoder makes of the English text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llink.interfaces import Decoder, Encoded, Encoder
from llink.recipe import Teacher


class TeacherEncoder(Encoder):
    """The decoder as a source of one vector a text, so that the feature cache keeps teacher states too.

    ``mean`` averages one layer over the text's tokens; ``reserved`` reads the layer at a reserved token placed
    after the text (paper, section 3). Layer 0 needs no decoder pass.
    """

    def __init__(self, decoder: Decoder, teacher: Teacher, max_tokens: int = 256) -> None:
        self.decoder, self.teacher = decoder, teacher
        self.name = f"teacher:{decoder.name}"
        self.hidden_size, self.max_tokens, self.fingerprint = decoder.hidden_size, max_tokens, decoder.fingerprint
        self.signature = f"{decoder.fingerprint}|teacher|{teacher.layer}|{teacher.position}|max={max_tokens}"
        # The paper's <foreign_emb> row: the mean embedding, as a new token would get.
        self.reserved = decoder.embedding_matrix().detach().mean(0)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(self.decoder.tokenize(text)) for text in texts]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Encoded:
        ids = [torch.tensor(self.decoder.tokenize(text)[: self.max_tokens]) for text in texts]
        device = self.reserved.device
        rows = [self.decoder.embed(row.to(device)) for row in ids]
        if self.teacher.position == "reserved":
            rows = [torch.cat([row, self.reserved[None]]) for row in rows]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        states = embeds if self.teacher.layer == 0 else self._run(embeds)
        if self.teacher.position == "reserved":
            pooled = states[torch.arange(len(rows)), lengths - 1]
        else:
            own = torch.arange(embeds.shape[1], device=device)[None] < lengths[:, None]
            pooled = (states * own[..., None]).sum(1) / lengths.clamp(min=1)[:, None]
        nothing = states.new_zeros(len(rows), 0, self.hidden_size)
        return Encoded(nothing, torch.zeros(len(rows), 0, dtype=torch.bool), pooled)

    def _run(self, embeds: Tensor) -> Tensor:
        # Padding is on the right and attention is causal, so no token ever sees it.
        model: Any = self.decoder.model
        out = model.base_model(inputs_embeds=embeds, output_hidden_states=True, use_cache=False)
        return out.hidden_states[self.teacher.layer]
