"""How likely the decoder finds given answers to prompts of different lengths, in one batch.

``llink.adapter.slots`` shares what stands before the slots between the rows of a batch; here every row has a prompt of its
own: raw foreign text, two answers to compare, a question of a public benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llink.adapter.prompt import Prompt
from llink.adapter.slots import filled, pad_left
from llink.interfaces import Decoder


def embedded(decoder: Decoder, prompts: Sequence[Prompt]) -> list[Tensor]:
    """Prompts without slots as embeddings ``[P_i, D]``."""
    device = decoder.embedding_matrix().device
    return [filled(decoder, prompt, None, device) for prompt in prompts]


def answer_logits(decoder: Decoder, prompts: Sequence[Tensor], answers: Tensor) -> Tensor:
    """Logits ``[B, L, V]`` that predict the tokens ``answers [B, L]`` behind prompts ``[P_i, D]``."""
    model: Any = decoder.model
    embeds, mask = pad_left(prompts)
    tail = decoder.embed(answers[:, :-1].to(embeds.device)).to(embeds.dtype)
    # Behind an answer that is shorter than L stands padding on the right, which no real token sees.
    mask = torch.cat([mask, mask.new_ones(tail.shape[:2])], dim=1)
    return model(
        inputs_embeds=torch.cat([embeds, tail], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=answers.shape[1],
        use_cache=False,
    ).logits


def answer_losses(
    decoder: Decoder, prompts: Sequence[Tensor], answers: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Negative log likelihood of each token of given answers, and whether it is the one the decoder would choose.

    Args:
        prompts: B prompts as embeddings ``[P_i, D]``.
        answers: B lists of one or more token ids; an end of turn counts where the list has one.

    Returns:
        ``[B, L]`` in nats, zero behind a row's last token, and ``[B, L]`` bool, True there; L is the longest answer.
    """
    rows = [torch.tensor(list(answer)) for answer in answers]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=decoder.end_of_turn)
    lengths = torch.tensor([len(row) for row in rows])
    own = (torch.arange(ids.shape[1])[None] < lengths[:, None]).to(prompts[0].device)
    ids = ids.to(prompts[0].device)
    logits = answer_logits(decoder, prompts, ids).float()
    losses = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    return losses * own, (logits.argmax(-1) == ids) | ~own
