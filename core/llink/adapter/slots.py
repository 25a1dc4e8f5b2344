"""Slots scattered into a prompt and read by the decoder: losses for training, tokens for generation.

All that stands before the first slot is the same for every row of a batch: it runs through the decoder once
and its keys and values are shared. What stands behind the slots may differ from row to row (the verbatim channel does).
The result is the same as for the whole prompt in every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor

from llink.adapter.loops import LoopGuard
from llink.adapter.prompt import SLOT, Prompt
from llink.interfaces import Decoder


def target_losses(
    decoder: Decoder, prompt: Prompt | Sequence[Prompt], slots: Tensor, targets: Sequence[Sequence[int]]
) -> Tensor:
    """Negative log likelihood of each target token, its end of turn included.

    Args:
        prompt: with slots for one or more passages; one for all rows, or one for each, alike up to the first slot.
        slots: ``[B, K, D]``, K for all passages of a row together.
        targets: B lists of ids, without the end of turn.

    Returns:
        ``[B, L]`` in nats, zero behind a row's end of turn; L is the longest target + 1.
    """
    ids, own = padded(decoder, targets, slots.device)
    return token_losses(target_logits(decoder, prompt, slots, ids), ids, own)


def token_losses(logits: Tensor, ids: Tensor, own: Tensor) -> Tensor:
    """Negative log likelihood ``[B, L]`` in nats of tokens by logits ``[B, L, V]``, zero where ``own`` is False."""
    losses = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none")
    return losses.view_as(ids) * own


def target_logits(decoder: Decoder, prompt: Prompt | Sequence[Prompt], slots: Tensor, targets: Tensor) -> Tensor:
    """Logits ``[B, L, V]`` that predict ``targets [B, L]``; ``prompt`` as in ``target_losses``."""
    model: Any = decoder.model
    rows, length = targets.shape
    prompts = [prompt] * rows if isinstance(prompt, Prompt) else list(prompt)
    shared = decoder.embed(torch.tensor([prompts[0].prefix], device=slots.device))
    before = model.base_model(inputs_embeds=shared, use_cache=True)
    cache = before.past_key_values
    cache.batch_repeat_interleave(rows)
    starts = [torch.tensor(p.ids[len(p.prefix) :], dtype=torch.long, device=slots.device) for p in prompts]
    tails = [torch.cat([start, target[:-1]]) for start, target in zip(starts, targets, strict=True)]
    ids = pad_sequence(tails, batch_first=True, padding_value=decoder.end_of_turn)
    embeds = scatter(decoder.embed(ids.clamp(min=0)), ids, slots)
    if before.last_hidden_state.requires_grad:
        # FSDP puts a layer's weights together again when a gradient enters by its output. The last layer's is not used
        # here, only its keys and values; nothing of it brings a gradient of nothing.
        embeds = embeds + 0 * before.last_hidden_state.sum()
    # Padding is on the right and attention is causal: no real token ever sees it, so no mask is needed.
    shortest = min(map(len, starts))
    spread = max(map(len, starts)) - shortest
    logits = model(inputs_embeds=embeds, past_key_values=cache, logits_to_keep=length + spread).logits
    if not spread:
        return logits
    first = torch.tensor([len(start) - shortest for start in starts], device=logits.device)
    places = first[:, None] + torch.arange(length, device=logits.device)
    return logits[torch.arange(rows, device=logits.device)[:, None], places]


def padded(decoder: Decoder, targets: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Targets with their end of turn as ids ``[B, L]``, and ``[B, L]`` bool, True on a row's own."""
    rows = [torch.tensor([*target, decoder.end_of_turn]) for target in targets]
    ids = pad_sequence(rows, batch_first=True, padding_value=decoder.end_of_turn)
    lengths = torch.tensor([len(row) for row in rows])
    own = torch.arange(ids.shape[1])[None] < lengths[:, None]
    return ids.to(device), own.to(device)


def prompt_embeddings(decoder: Decoder, prompt: Prompt, slots: Tensor | None, device: torch.device) -> Tensor:
    """The whole prompt as embeddings ``[B, P, D]``, slots in their places (B is 1 without slots)."""
    prefix = decoder.embed(torch.tensor([prompt.prefix], device=device))
    if slots is None:
        return prefix
    suffix = decoder.embed(torch.tensor([prompt.suffix], device=device))
    rows = len(slots)
    return torch.cat([prefix.expand(rows, -1, -1), slots.to(prefix.dtype), suffix.expand(rows, -1, -1)], dim=1)


def filled(decoder: Decoder, prompt: Prompt, slots: Tensor | None, device: torch.device) -> Tensor:
    """A prompt as embeddings ``[P, D]``, slots ``[S * K, D]`` of all its passages in their places, in order."""
    ids = torch.tensor(prompt.ids, device=device)
    embeds = decoder.embed(ids.clamp(min=0))
    return embeds if slots is None else scatter(embeds, ids, slots)


def scatter(embeds: Tensor, ids: Tensor, slots: Tensor) -> Tensor:
    """Embeddings ``[..., D]`` of ``ids [...]`` with slots ``[..., D]``, in order, where a slot's place is."""
    return embeds.masked_scatter((ids == SLOT)[..., None], slots.to(embeds.dtype))


def generate(
    decoder: Decoder, embeds: Tensor, mask: Tensor | None = None, max_new_tokens: int = 128, **options: Any
) -> list[str]:
    """The text of ``generate_ids``."""
    return [decoder.detokenize(row) for row in generate_ids(decoder, embeds, mask, max_new_tokens, **options)]


@torch.inference_mode()
def generate_ids(
    decoder: Decoder, embeds: Tensor, mask: Tensor | None = None, max_new_tokens: int = 128, **options: Any
) -> list[list[int]]:
    """Greedy answers to B prompts given as embeddings, as token ids up to the end of the turn; no guard against loops.

    Args:
        embeds: ``[B, P, D]``, left-padded where the prompts differ in length.
        mask: ``[B, P]``, True where a prompt has a token.
        options: passed on to transformers' ``generate``.
    """
    out = _generate(decoder, embeds, mask, max_new_tokens, options)
    ends = set(decoder.stop_ids)
    return [list(takewhile(lambda i: i not in ends, row)) for row in out.tolist()]


def _generate(
    decoder: Decoder, embeds: Tensor, mask: Tensor | None, max_new_tokens: int, options: dict[str, Any]
) -> Tensor:
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    model: Any = decoder.model
    out: Tensor = model.generate(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        max_new_tokens=max_new_tokens,
        eos_token_id=list(decoder.stop_ids),
        pad_token_id=decoder.end_of_turn,
        **{"do_sample": False, "temperature": None, "top_p": None, "top_k": None, **options},
    )
    return out


def rules_of(
    decoder: Decoder, embeds: Tensor, max_new_tokens: int, **options: Any
) -> tuple[list[LogitsProcessor], bool]:
    """What transformers' ``generate`` would do to the scores of a prompt ``[P, D]`` with such options, beams left out.

    Returns:
        The logits processors, and whether the next token is drawn.

    Raises:
        ValueError, TypeError: for options that it refuses.
    """
    found: list[LogitsProcessor] = []
    drawn = False

    def instead(model: Any, input_ids: Tensor, logits_processor: Any, generation_config: Any, **_: Any) -> Tensor:
        nonlocal drawn
        found.extend(logits_processor)
        drawn = bool(generation_config.do_sample)
        return input_ids

    _generate(decoder, embeds[None], None, max_new_tokens, {**options, "custom_generate": instead})
    return found, drawn


def answer_prompts(decoder: Decoder, prompts: Sequence[Prompt], max_new_tokens: int = 128, **options: Any) -> list[str]:
    """The text of ``answer_ids``."""
    return [decoder.detokenize(row) for row in answer_ids(decoder, prompts, max_new_tokens, **options)]


def answer_ids(
    decoder: Decoder, prompts: Sequence[Prompt], max_new_tokens: int = 128, **options: Any
) -> list[list[int]]:
    """Greedy answers to prompts of plain text, without slots, in one batch; one of full length did not end.

    They are kept from repeating themselves, as those that are read through slots are: the two are compared.
    """
    device = decoder.embedding_matrix().device
    with torch.inference_mode():
        embeds, mask = pad_left([prompt_embeddings(decoder, p, None, device)[0] for p in prompts])
    guard = LoopGuard(decoder, [True] * len(prompts))
    return generate_ids(decoder, embeds, mask, max_new_tokens, logits_processor=[guard], **options)


def pad_left(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts ``[P_i, D]`` of different lengths as ``[B, P, D]`` and their mask ``[B, P]``."""
    width = max(len(row) for row in rows)
    embeds = torch.stack([F.pad(row, (0, 0, width - len(row), 0)) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=embeds.device)
    return embeds, mask


def in_batches(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices that cover ``range(count)``; a last one of a single row joins the one before."""
    start = 0
    while start < count:
        end = count if count - start <= size + 1 else start + size
        yield slice(start, end)
        start = end
