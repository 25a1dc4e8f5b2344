"""Warm start of the slot injector, with no decoder in the loop.

The frozen decoder already reads one kind of soft token well: its own input embeddings. So before stage B the
slots learn to imitate them. The English target is cut into as many consecutive chunks as there are slots; slot k aims
at the mean embedding of chunk k and must tell its tokens from the batch's other tokens. With as many slots as tokens
this is a translation token by token; with fewer, a summary that keeps the order. One example costs
about a twentieth of a pass through even the smallest decoder.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from llink.adapter.bridge import Bridge
from llink.features.cache import Features
from llink.interfaces import Decoder
from llink.recipe import Slots, WarmStart
from llink.training.loop import Log, Part, Stage, fit, warmup_cosine, whole_batch
from llink.training.objective import Objective


class SlotTargets:
    """What each of the slots should say, as chunks of an English text's input embeddings.

    Args:
        decoder: gives tokenizer and embeddings.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.matrix = decoder.embedding_matrix().detach()
        self.filler = decoder.tokenize("\n")[0]

    def chunks(self, ids: Sequence[int], slots: int) -> list[list[int]]:
        """So many lists of ids; a text that is shorter leaves the last ones with a line break each."""
        if len(ids) <= slots:
            return [[i] for i in ids] + [[self.filler]] * (slots - len(ids))
        cuts = [round(k * len(ids) / slots) for k in range(slots + 1)]
        return [list(ids[a:b]) for a, b in pairwise(cuts)]

    def __call__(self, rows: Sequence[Sequence[Sequence[int]]], slots: int) -> tuple[Tensor, Tensor, Tensor]:
        """Targets ``[B, K, D]``, unit vocabulary ``[U, D]`` of the batch and wanted tokens ``[B, K, U]``.

        Args:
            rows: of each row the ids of its passages, one or more, the same number in all.
            slots: K, of all passages of a row together.
        """
        chunked = [[chunk for ids in row for chunk in self.chunks(ids, slots // len(row))] for row in rows]
        distinct = sorted({i for chunks in chunked for chunk in chunks for i in chunk})
        place = {token: n for n, token in enumerate(distinct)}
        wanted = torch.zeros(len(rows), slots, len(distinct))
        for b, chunks in enumerate(chunked):
            for k, chunk in enumerate(chunks):
                for token in chunk:
                    wanted[b, k, place[token]] += 1 / len(chunk)
        wanted = wanted.to(self.matrix.device)
        vocabulary = self.matrix[distinct].float()
        return wanted @ vocabulary, F.normalize(vocabulary, dim=-1), wanted


def slot_inputs(
    aims: SlotTargets, slots: Tensor, english: Sequence[Sequence[Sequence[int]]], temperature: float = 0.07
) -> dict[str, Callable[[], Any]]:
    """How to make what losses may ask for beside the slots ``[B, K, D]``, from the tokens of their English passages."""
    aim = functools.cache(lambda: aims(english, slots.shape[1]))
    texts = [tuple(map(tuple, row)) for row in english]
    number = {text: n for n, text in enumerate(texts)}
    return {
        "targets": lambda: aim()[0],
        "vocabulary": lambda: aim()[1],
        "wanted": lambda: aim()[2],
        "student": lambda: slots.mean(1),
        "teacher": lambda: aim()[0].mean(1),
        "groups": lambda: torch.tensor([number[text] for text in texts], device=slots.device),
        "temperature": lambda: temperature,
    }


def train_warm_start(
    bridge: Bridge,
    decoder: Decoder,
    cache: Features,
    examples: Sequence[tuple[str, str]],
    config: WarmStart,
    *,
    seed: int,
    accelerator: Accelerator,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    log: Log = lambda _: None,
    seen: Callable[[int], None] = lambda _: None,
) -> Bridge:
    """Train the injector in place; the projector stays as stage A left it.

    Args:
        examples: (text the encoder reads, English it stands for).
        log: gets the sum and every loss by name every 50 steps.
        seen: gets how many examples each step took on this rank.

    Raises:
        LlinkError: E402 when the loss is not finite, E408 when a loss of a plugin cannot be had.
    """
    size = whole_batch(config.batch, 1, accelerator)
    fit(
        _WarmStart(bridge, decoder, cache, examples, config, seed, accelerator.device),
        accelerator=accelerator,
        seed=seed,
        size=size,
        accumulation=1,
        steps=round(config.epochs * math.ceil(len(examples) / size)),
        schedule=lambda step, of: warmup_cosine(step, of, 0.05),
        weight_decay=0.01,
        clip=1.0,
        every=checkpoint_every,
        checkpoint=checkpoint,
        log=log,
        seen=seen,
    )
    return bridge


class _WarmStart(Stage):
    """Slots against the English input embeddings."""

    name, label, cure, log_every = "warm_start", "Warm start", "Lower warm_start.lr.", 50

    def __init__(
        self,
        bridge: Bridge,
        decoder: Decoder,
        cache: Features,
        examples: Sequence[tuple[str, str]],
        config: WarmStart,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        bridge.projector.requires_grad_(False)
        fit_states(bridge, cache, [text for text, _ in examples], seed)
        self.bridge, self.replicated = bridge, [bridge]
        self.cache, self.pairs, self.config, self.seed, self.device = cache, examples, config, seed, device
        self.english = [[decoder.tokenize(english)] for _, english in examples]
        self.aims, self.objective = SlotTargets(decoder), Objective("warm_start", config.losses)

    def train(self, mode: bool = True) -> _WarmStart:
        super().train(mode)
        self.bridge.projector.eval()
        return self

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.bridge.injector.parameters()), "lr": self.config.lr}]

    def batches(self, size: int, first: int) -> Iterator[list[int]]:
        return length_batches(self.cache.lengths([text for text, _ in self.pairs]), size, self.seed, first)

    def loss(self, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        longest = max(self.cache.lengths([self.pairs[i][0] for i in part.batch]))
        count = slots_of_step(self.bridge, longest, self.seed, part.step)
        own = self.bridge(*features(self.cache, [self.pairs[i][0] for i in part.rows], self.device), count)
        slots = part.join("slots", own)
        return self.objective(slot_inputs(self.aims, slots, [self.english[i] for i in part.batch]), slots=slots)

    def examples(self, part: Part) -> list[dict[str, str]]:
        return [dict(zip(("text", "target"), self.pairs[i], strict=True)) for i in part.rows]


def slots_of_step(bridge: Bridge, tokens: int, seed: int, step: int) -> int:
    """k of a training step whose longest text has so many encoder tokens: its own number, or in nested steps another."""
    slots, pick = bridge.choice.slots, random.Random(f"{seed} slots {step}")
    if isinstance(slots, Slots) and pick.random() < slots.nested:
        return pick.randint(slots.min, slots.max)
    return bridge.count(tokens)


def features(cache: Features, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """zF ``[B, H]``, states ``[B, T, H]`` and mask ``[B, T]`` from the cache."""
    states, mask = cache.states(texts)
    return cache.pooled(texts).to(device), states.to(device), mask.to(device)


def fit_states(bridge: Bridge, cache: Features, texts: Sequence[str], seed: int) -> None:
    """Give an injector that reads token states their mean and deviation, from up to 1,000 texts."""
    if not bridge.injector.needs_states:
        return
    picks = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))[:1000].tolist()
    states, mask = cache.states([texts[i] for i in picks])
    bridge.injector.fit_input(states[mask])


def length_batches(lengths: Sequence[int], batch: int, seed: int, first: int = 0) -> Iterator[list[int]]:
    """Endless batches of row numbers of like length, in an order that is new every epoch.

    Rows are shuffled, sorted by length within windows of 50 batches, and the batches shuffled again; so the
    data comes in a new order every epoch while little padding is computed. Starts at batch number ``first``.
    """
    per_epoch = math.ceil(len(lengths) / batch)
    epoch, skip = divmod(first, per_epoch)
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(lengths), generator=generator).tolist()
        batches = []
        for start in range(0, len(order), batch * 50):
            window = sorted(order[start : start + batch * 50], key=lambda i: lengths[i])
            batches += [window[i : i + batch] for i in range(0, len(window), batch)]
        for i in torch.randperm(len(batches), generator=generator).tolist()[skip:]:
            yield batches[i]
        epoch, skip = epoch + 1, 0
