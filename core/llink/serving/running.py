"""Rows on their way through the decoder together: they join and leave between two tokens.

Each row has the keys and values of its own prompt, padded on the left to the longest. A row that joins is read by itself,
beside those that join with it, and laid beside the others; one that leaves is taken out. So a row's tokens are those that it
has alone, up to rounding, whoever comes and goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from llink.adapter.loops import LoopGuard
from llink.adapter.lora import Lora, LoraSwitch
from llink.adapter.slots import pad_left, rules_of
from llink.interfaces import Decoder
from llink.serving.constrained import KnownDigits

if TYPE_CHECKING:
    from llink.serving.scheduler import Request, Row

KINDS = 64
"""Sets of options whose logits processors are kept."""


@dataclass(eq=False)
class Entry:
    """A row in the decoder.

    Attributes:
        rules: what changes its scores. sampled: whether its tokens are drawn, else the likeliest is taken.
        token: the last that was chosen, which no pass has read yet.
    """

    request: Request
    row: Row
    rules: LogitsProcessorList
    sampled: bool
    token: int = -1


def joinable(decoder: Decoder) -> bool:
    """Whether rows can be laid beside each other: every layer keeps keys and values, and no other state."""
    model: Any = decoder.model
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return all(type(layer) in plain for layer in DynamicCache(config=model.config).layers)


class Running:
    """The rows that are in the decoder now; used by one thread.

    Args:
        switch: chooses the rows' LoRA.
    """

    def __init__(self, decoder: Decoder, switch: LoraSwitch) -> None:
        self._decoder, self._switch = decoder, switch
        self._rules: dict[str, tuple[list[LogitsProcessor], bool]] = {}
        # Models that know places by other means do not take them.
        self._takes_places = "position_ids" in signature(decoder.model.forward).parameters
        self._cache = DynamicCache()
        """Keys and values ``[B, heads, T, size]`` of each layer."""
        self._mask = torch.empty(0, 0)
        """``[B, T]``, 1 where a row has a token of its own."""
        self.entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def loras(self) -> list[Lora | None]:
        """What each row is read with."""
        return [entry.row.lora for entry in self.entries]

    def join(self, rows: Sequence[tuple[Request, Row]]) -> list[Entry]:
        """Read the prompts of rows, with what was answered already, and choose the next token of each.

        Raises:
            Exception: whatever goes wrong; the others are as they were.
        """
        entries = [Entry(request, row, *self._rules_for(request, row)) for request, row in rows]
        embeds, mask = pad_left([self._so_far(row) for _, row in rows])
        with self._switch.using([row.lora for _, row in rows]):
            scores, cache = self._pass(embeds, mask, DynamicCache())
        self._choose(entries, scores)
        if self.entries:
            width = max(mask.shape[1], self._mask.shape[1])
            states = [
                (
                    torch.cat([_widened(k, width), _widened(k2, width)]),
                    torch.cat([_widened(v, width), _widened(v2, width)]),
                )
                for (k, v), (k2, v2) in zip(_states(self._cache), _states(cache), strict=True)
            ]
            _replace(cache, states)
            mask = torch.cat([F.pad(m, (width - m.shape[1], 0)) for m in (self._mask, mask)])
        self._cache, self._mask = cache, mask
        self.entries = [*self.entries, *entries]
        self._switch.choose(self.loras)
        return entries

    def step(self) -> None:
        """Choose the next token of every row."""
        device = self._mask.device
        tokens = torch.tensor([[entry.token] for entry in self.entries], device=device)
        mask = F.pad(self._mask, (0, 1), value=1)
        scores, self._cache = self._pass(self._decoder.embed(tokens), mask, self._cache)
        self._mask = mask
        self._choose(self.entries, scores)

    def keep(self, entries: Sequence[Entry]) -> None:
        """Let all others go, and the columns that only they had."""
        if len(entries) == len(self.entries):
            return
        stay = [n for n, entry in enumerate(self.entries) if entry in entries]
        self.entries = [self.entries[n] for n in stay]
        if not stay:
            self.clear()
            return
        self._mask = self._mask[stay]
        first = int(self._mask.argmax(dim=1).min())
        self._mask = self._mask[:, first:]
        _replace(self._cache, [(k[stay, :, first:], v[stay, :, first:]) for k, v in _states(self._cache)])
        self._switch.choose(self.loras)

    def clear(self) -> None:
        """Let all go, and whatever they had in memory."""
        self.entries, self._cache, self._mask = [], DynamicCache(), torch.empty(0, 0)
        self._switch.choose(None)

    def _so_far(self, row: Row) -> Tensor:
        if not row.ids:
            return row.embeds
        return torch.cat([row.embeds, self._decoder.embed(torch.tensor(row.ids, device=row.embeds.device))])

    def _pass(self, embeds: Tensor, mask: Tensor, cache: DynamicCache) -> tuple[Tensor, DynamicCache]:
        """Scores ``[B, V]`` of the token behind ``embeds [B, T, D]``, and the cache with all of them in it.

        The cache is a plain one for every layer: where a layer attends to a window only, the mask says so, and rows of
        other lengths can be laid beside it.
        """
        model: Any = self._decoder.model
        # A row's first token is at position 0 whatever stands before it.
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        out = model(
            inputs_embeds=embeds,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **({"position_ids": places} if self._takes_places else {}),
        )
        return out.logits[:, -1].to(torch.float32, copy=True), cache

    def _rules_for(self, request: Request, row: Row) -> tuple[LogitsProcessorList, bool]:
        if request.kind not in self._rules:
            if len(self._rules) >= KINDS:
                self._rules.clear()
            self._rules[request.kind] = rules_of(self._decoder, row.embeds, row.limit, **request.options)
        given, sampled = self._rules[request.kind]
        own: list[LogitsProcessor] = []
        if row.digits is not None:
            own.append(KnownDigits(self._decoder, [row.digits]))
        if row.loop_guard:
            own.append(LoopGuard(self._decoder, [True]))
        # Ours first: what is drawn is drawn among the tokens that may come.
        return LogitsProcessorList([*own, *given]), sampled

    def _choose(self, entries: Sequence[Entry], scores: Tensor) -> None:
        for number, entry in enumerate(entries):
            if entry.rules:
                ids: Any = torch.tensor([entry.row.ids], dtype=torch.long, device=scores.device)
                scores[number] = entry.rules(ids, scores[number : number + 1])[0]
        tokens = scores.argmax(dim=1).tolist()
        for number, entry in enumerate(entries):
            drawn = torch.multinomial(scores[number].softmax(0), 1) if entry.sampled else tokens[number]
            entry.token = int(drawn)


def _widened(states: Tensor, width: int) -> Tensor:
    """Keys or values ``[B, heads, T, size]`` with padding on the left."""
    return F.pad(states, (0, 0, width - states.shape[2], 0))


def _states(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def _replace(cache: DynamicCache, states: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Put other keys and values in the place of those of each layer."""
    layers: list[Any] = cache.layers
    for layer, (keys, values) in zip(layers, states, strict=True):
        layer.keys, layer.values = keys, values
