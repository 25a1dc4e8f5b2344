"""Teacher states: what the frozen decoder makes of the English text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llink.errors import LlinkError
from llink.interfaces import Decoder, Encoded, Encoder
from llink.recipe import Teacher


class TeacherEncoder(Encoder):
    """The decoder as a source of one vector a text, so that the feature cache keeps teacher states too.

    ``mean`` averages one layer over the text's tokens; ``reserved`` reads the layer at a reserved token placed
    after the text (paper, section 3). Layer 0 needs no decoder pass.

    Raises:
        LlinkError: E303 when the decoder has fewer layers than the teacher's.
    """

    def __init__(self, decoder: Decoder, teacher: Teacher, max_tokens: int = 256) -> None:
        if teacher.layer > depth(decoder):
            raise LlinkError(
                "E303", f"Decoder '{decoder.name}' has {depth(decoder)} layers; layer {teacher.layer} does not exist.",
                "Lower teacher.layer; -1 is the last.",
            )  # fmt: skip
        self.decoder, self.teacher = decoder, teacher
        self.name = f"teacher:{decoder.name}"
        self.hidden_size, self.max_tokens, self.fingerprint = decoder.hidden_size, max_tokens, decoder.fingerprint
        self.signature = f"{decoder.fingerprint}|teacher|{teacher.layer}|{teacher.position}|max={max_tokens}"

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.decoder.tokenize(text) for text in texts]

    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Encoded:
        [pooled] = teacher_states(self.decoder, [self.teacher], tokens, self.max_tokens)
        return self.encoded(pooled)

    def encoded(self, pooled: Tensor) -> Encoded:
        """Vectors ``[B, D]`` as an encoder gives them; there are no token states."""
        nothing = pooled.new_zeros(len(pooled), 0, self.hidden_size)
        return Encoded(nothing, torch.zeros(len(pooled), 0, dtype=torch.bool), pooled)


def depth(decoder: Decoder) -> int:
    """How many layers the decoder has."""
    model: Any = decoder.model
    return int(model.config.num_hidden_layers)


@torch.inference_mode()
def teacher_states(
    decoder: Decoder, teachers: Sequence[Teacher], tokens: Sequence[Sequence[int]], max_tokens: int = 256
) -> list[Tensor]:
    """What each of the teachers says of B texts, given as the decoder's tokens: ``[B, D]`` a teacher, from one pass."""
    table = decoder.embedding_matrix().detach()
    ids = [torch.tensor(row[:max_tokens], device=table.device) for row in tokens]
    rows = [decoder.embed(row) for row in ids]
    lengths = torch.tensor([len(row) for row in rows], device=table.device)
    if any(teacher.position == "reserved" for teacher in teachers):
        # The paper's <foreign_emb> row: the mean embedding, as a new token would get.
        reserved = table.mean(0, keepdim=True)
        rows = [torch.cat([row, reserved]) for row in rows]
    embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    layers: Sequence[Tensor] = [embeds]
    if any(teacher.layer for teacher in teachers):
        # Padding is on the right and attention is causal, so no token ever sees it, nor the reserved one.
        model: Any = decoder.model
        layers = model.base_model(inputs_embeds=embeds, output_hidden_states=True, use_cache=False).hidden_states
    own = torch.arange(embeds.shape[1], device=table.device)[None] < lengths[:, None]
    return [
        layers[teacher.layer][torch.arange(len(rows)), lengths]
        if teacher.position == "reserved"
        else (layers[teacher.layer] * own[..., None]).sum(1) / lengths.clamp(min=1)[:, None]
        for teacher in teachers
    ]
