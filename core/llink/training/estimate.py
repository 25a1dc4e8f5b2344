"""What a training run will take: a few real steps of every part on this machine, multiplied."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn import functional as F

from llink import plugins
from llink.adapter.bridge import Bridge
from llink.adapter.losses.info_nce import InfoNCE
from llink.data.instruct import distil
from llink.data.pairs import Pair, share
from llink.features.cache import BATCH_TOKENS, FeatureCache, token_batches
from llink.interfaces import Decoder, Encoder
from llink.progress import track
from llink.recipe import Injection, Recipe
from llink.training.machine import peak_memory
from llink.training.stage_b import Example, add_lora, dev_losses, train_stage_b, whole_steps, with_values
from llink.training.warm_start import train_warm_start

ASSUMED_PAIRS = 20_000
SAMPLE = 64
FEW = 16
STEPS = 3
FINAL_DEV = 200
"""Pairs of each dev set that a run measures the usage gap on at its end."""
TRAINED_BYTES = 16
"""A trained number, its gradient and AdamW's two moments, all float32."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        pairs: training pairs that it is made for.
        assumed: whether their number is made up, because there is no training data yet.
        seconds: by part of the run; what the feature cache holds already is not counted.
        bytes: ``weights`` of the frozen models, ``trained`` numbers with gradient and optimiser, ``peak`` memory
            as measured (0 where the system cannot say), ``cache`` of features on disk.
        device, dtype: where and in which number format it was measured.
        cpu_share: what share of its cores this process got meanwhile; less than 1 means a busy machine (or a GPU).
    """

    pairs: int
    assumed: bool
    seconds: dict[str, float]
    bytes: dict[str, int]
    device: str
    dtype: str
    cpu_share: float


@dataclass
class Trial:
    """A recipe with its models and a sample of its text, to be tried for a few steps.

    Args:
        sample: pairs whose features are in the cache.
        texts: how many texts stage A and the warm start will see in an epoch.
    """

    recipe: Recipe
    encoder: Encoder
    decoder: Decoder
    cache: FeatureCache
    accelerator: Accelerator
    sample: list[Pair]
    texts: float

    def __post_init__(self) -> None:
        self.bridge = Bridge.create(self.encoder, self.decoder, self.recipe.projector, self.recipe.injector)

    def stage_a(self) -> float:
        """Seconds of stage A: forward, backward and update of the projector against a full queue."""
        config, device = self.recipe.stage_a, self.accelerator.device
        sizes = {"encoder_size": self.encoder.hidden_size, "decoder_size": self.decoder.hidden_size}
        options = self.recipe.projector
        projector = (
            plugins.projector(options.kind).make(hidden=options.hidden, dropout=options.dropout, **sizes).to(device)
        )
        optimizer, loss = torch.optim.AdamW(projector.parameters()), InfoNCE()
        inputs = torch.randn(config.batch, self.encoder.hidden_size, device=device)
        teacher = torch.randn(config.batch, self.decoder.hidden_size, device=device)
        queue = F.normalize(torch.randn(config.queue, self.decoder.hidden_size, device=device), dim=-1)

        def step() -> float:
            value = loss(
                student=projector(inputs), teacher=teacher, temperature=0.1, queue=queue, hardest=config.hardest
            )
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            return float(value.detach())

        step()
        start = time.monotonic()
        for _ in range(STEPS):
            step()
        return config.epochs * math.ceil(self.texts / config.batch) * (time.monotonic() - start) / STEPS

    def warm_start(self) -> float:
        """Seconds of the warm start."""
        config = self.recipe.warm_start
        if not config.epochs:
            return 0.0
        some = [(p.foreign, p.english) for p in islice(cycle(self.sample), STEPS * config.batch)]
        start = time.monotonic()
        train_warm_start(
            self.bridge, self.decoder, self.cache, some, config.model_copy(update={"epochs": 1.0}),
            seed=self.recipe.seed, accelerator=self.accelerator,
        )  # fmt: skip
        return config.epochs * math.ceil(self.texts / config.batch) * (time.monotonic() - start) / STEPS

    def distillation(self) -> float:
        """Seconds of making the self-distilled examples."""
        count, some = self.recipe.stage_b.distilled, [p.english for p in self.sample[:FEW]]
        if not (count and self.recipe.stage_b.examples) or self.recipe.data.instructions:
            return 0.0
        with TemporaryDirectory() as folder:
            start = time.monotonic()
            distil(self.decoder, some, Path(folder))
            return count * (time.monotonic() - start) / len(some)

    def stage_b(self) -> float:
        """Seconds of stage B and its dev losses. The decoder carries a LoRA afterwards."""
        config = self.recipe.stage_b
        count = STEPS * config.batch
        some = [Example(p.foreign, "translate", p.english, p.english) for p in islice(cycle(self.sample), count)]
        if self.recipe.verbatim.tokens:
            some = with_values(some, plugins.language(self.recipe.language))
        self.lora = add_lora(self.decoder, config)
        start = time.monotonic()
        train_stage_b(
            self.bridge, self.decoder, self.lora, self.cache, some, config.model_copy(update={"examples": count}),
            seed=self.recipe.seed, accelerator=self.accelerator, verbatim=self.recipe.verbatim,
            every=STEPS + 1,
        )  # fmt: skip
        self.a_step = (time.monotonic() - start) / STEPS
        start = time.monotonic()
        dev_losses(self.bridge, self.decoder, self.cache, some[:FEW], verbatim=self.recipe.verbatim.tokens)
        self.a_dev_pair = (time.monotonic() - start) / len(some[:FEW])
        return self._injection(config)

    def stage_c(self) -> float:
        """Seconds of stage C, by those of stage B: the projector, which it trains too, is small."""
        return self._injection(self.recipe.stage_c)

    def _injection(self, config: Injection) -> float:
        """Seconds of a stage with the decoder in the loop, once ``stage_b`` has measured."""
        steps = whole_steps(config, config.batch)
        sets, every = len(self.recipe.data.dev), self.recipe.checkpoint_every
        dev = sets * (FINAL_DEV + self.recipe.dev_examples * (1 + steps // every))
        return steps * config.batch / self.recipe.stage_b.batch * self.a_step + dev * self.a_dev_pair

    def trained(self) -> int:
        """How many numbers are trained, over all stages."""
        lora = sum(p.numel() for n, p in self.lora.named_parameters() if "lora_" in n)
        return lora + sum(p.numel() for p in self.bridge.parameters())


def estimate(
    recipe: Recipe,
    encoder: Encoder,
    decoder: Decoder,
    cache: FeatureCache,
    pairs: Sequence[Pair],
    general: Sequence[str],
    accelerator: Accelerator,
    *,
    assumed: bool = False,
) -> Estimate:
    """Time and memory of the recipe on this machine. The decoder carries a LoRA afterwards.

    Args:
        pairs: training pairs; where ``assumed``, pairs that ``ASSUMED_PAIRS`` like them are imagined from.
        general: the recipe's general English.
    """
    times = ASSUMED_PAIRS / len(pairs) if assumed else 1.0
    foreign, english = ({getattr(p, side) for p in pairs} for side in ("foreign", "english"))
    groups = [(foreign, times * len(pairs))]
    if recipe.stage_a.english_side or recipe.stage_b.english_share > 0:
        groups += [(english, times * len(english)), (set(general), float(len(general)))]
    sample = sorted(pairs, key=lambda p: share(p.english))[:SAMPLE]
    texts = sum(count for _, count in groups)
    start, cpu = time.monotonic(), time.process_time()
    with track("Measuring", total=5 + (recipe.stage_c.examples > 0)) as bar:
        speed = encoding_speed(encoder, [p.foreign for p in sample[:FEW]])
        tokens = missing = 0.0
        for group, count in groups:
            mean, new = _tokens(encoder, cache, sorted(group, key=share)[: 4 * SAMPLE])
            tokens, missing = tokens + count * mean, missing + count * mean * new
        cache.ensure(chain.from_iterable((p.foreign, p.english) for p in sample))
        seconds = {"encoding": missing / speed}
        bar(1)
        trial = Trial(recipe, encoder, decoder, cache, accelerator, sample, texts)
        weights = sum(_bytes(getattr(model, "model", None)) for model in (encoder, decoder))
        for part, run in (
            ("stage A", trial.stage_a),
            ("warm start", trial.warm_start),
            ("self-distillation", trial.distillation),
            ("stage B", trial.stage_b),
            *([("stage C", trial.stage_c)] if recipe.stage_c.examples else []),
        ):
            seconds[part] = run()
            bar(1)
    return Estimate(
        pairs=round(times * len(pairs)),
        assumed=assumed,
        seconds=seconds,
        bytes={
            "weights": weights,
            "trained": TRAINED_BYTES * trial.trained(),
            "peak": peak_memory(accelerator.device),
            # bfloat16 states and pooled vector, 16 bytes of key and 8 of offset.
            "cache": round((tokens + texts) * encoder.hidden_size * 2 + texts * 24),
        },
        device=str(accelerator.device),
        dtype=str(decoder.embedding_matrix().dtype).removeprefix("torch."),
        cpu_share=(time.process_time() - cpu) / (time.monotonic() - start) / torch.get_num_threads(),
    )


def encoding_speed(encoder: Encoder, texts: Sequence[str]) -> float:
    """Encoder tokens a second, in batches like those of the cache."""
    counted = sorted(zip((min(n, encoder.max_tokens) for n in encoder.count_tokens(texts)), texts, strict=True))
    counts = [count for count, _ in counted]
    encoder.encode([counted[0][1]])  # the first run of a model is always slow
    start = time.monotonic()
    for batch in token_batches(counts, BATCH_TOKENS):
        encoder.encode([counted[i][1] for i in batch]).pooled.cpu()
    return max(sum(counts), 1) / (time.monotonic() - start)


def _tokens(encoder: Encoder, cache: FeatureCache, texts: Sequence[str]) -> tuple[float, float]:
    """Mean number of encoder tokens of a text, and the share of the texts that is not in the cache."""
    counts = [min(n, encoder.max_tokens) for n in encoder.count_tokens(texts)]
    return sum(counts) / max(len(texts), 1), sum(text not in cache for text in texts) / max(len(texts), 1)


def _bytes(module: Any) -> int:
    """Bytes of a module's parameters, 0 for what is none."""
    return sum(p.numel() * p.element_size() for p in module.parameters()) if isinstance(module, torch.nn.Module) else 0
