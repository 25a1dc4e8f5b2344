"""Stage A and stage B of the paper's pair at its true sizes, random weights, on a GPU: what they take, and what was foretold.

Needs torch, transformers and this repository, no model and no data. Without a GPU only the estimate is written.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from common import arguments, figure, report
from torch import Tensor
from transformers import LlamaConfig, XLMRobertaConfig

from llink.adapter.bridge import Bridge
from llink.adapter.prompt import TASKS, build
from llink.cli.names import named_recipe
from llink.features.cache import BATCH_TOKENS, FeatureCache
from llink.features.teacher import TeacherEncoder
from llink.interfaces import Decoder, Encoded, Encoder
from llink.recipe import ModelChoice, Recipe, load_recipe
from llink.training import sizing
from llink.training.sizing import Lengths, build_blank
from llink.training.stage_a import AlignmentData, train_stage_a
from llink.training.stage_b import Example, add_lora, train_stage_b

RECIPE = "km/paper"
FOREIGN, ENGLISH = 48, 24
WARM = 3
"""Steps before those that are timed."""
FIRST = 300
"""Ids below this are special tokens to these tokenizers."""


def word_ids(text: str, size: int) -> list[int]:
    """One id a word."""
    return [FIRST + zlib.crc32(word.encode()) % (size - FIRST) for word in text.split()]


class RandomEncoder(Encoder):
    """The recipe's encoder with random weights and a tokenizer of one token a word."""

    def __init__(self, choice: ModelChoice, device: str, dtype: torch.dtype) -> None:
        self.model: Any = build_blank(choice, "encoder", device, dtype).eval()
        self.name, self.fingerprint, self.max_tokens = choice.name, "random", 256
        self.hidden_size, self.signature = self.model.config.hidden_size, f"random|{choice.name}|{time.time_ns()}"

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [word_ids(text, self.model.config.vocab_size) for text in texts]

    @torch.inference_mode()
    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Encoded:
        rows = [torch.tensor([0, *row, 2]) for row in tokens]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1).to(self.model.device)
        states = self.model(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state[:, 1:-1]
        own = (ids[:, 2:] != 1).to(states.dtype)
        pooled = (states * own[..., None]).sum(1) / own.sum(1, keepdim=True)
        return Encoded(states * own[..., None], own.bool(), pooled)


class RandomDecoder(Decoder):
    """The recipe's decoder with random weights and a tokenizer of one token a word."""

    def __init__(self, choice: ModelChoice, device: str, dtype: torch.dtype) -> None:
        self.model: Any = build_blank(choice, "decoder", device, dtype).eval()
        self.name, self.fingerprint, self.hidden_size = choice.name, "random", self.model.config.hidden_size
        present = {name.rsplit(".", 1)[-1] for name, _ in self.model.named_modules()}
        self.lora_targets = tuple(name for name in sizing.ATTENTION_AND_MLP if name in present)
        self.end_of_turn, self.stop_ids = 9, (9,)

    def tokenize(self, text: str) -> list[int]:
        return word_ids(text, self.model.config.vocab_size) or [FIRST]

    def detokenize(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int | str]:
        # About as many tokens of its own as Llama 3's template: a head and an end a turn, a preamble in the first.
        parts: list[int | str] = list(range(100, 116))
        for message in messages:
            parts += [10, 11, 12, 13, message["content"], 9]
        return [*parts, 10, 11, 12, 13]

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def embedding_matrix(self) -> Tensor:
        return self.model.get_input_embeddings().weight


def text(number: int, words: int) -> str:
    """A text of so many words, unlike the others."""
    return " ".join(f"w{number}x{place}" for place in range(words))


def tiny(recipe: Recipe, folder: Path) -> Recipe:
    """The same recipe at sizes for a CPU."""
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 2000,
    }
    configs = {"encoder": XLMRobertaConfig(**sizes), "decoder": LlamaConfig(**sizes, num_key_value_heads=2)}
    for name, config in configs.items():
        config.save_pretrained(folder / name)
    return recipe.model_copy(
        update={
            **{role: ModelChoice(name=str(folder / role)) for role in configs},
            "projector": recipe.projector.model_copy(update={"hidden": 96}),
            "stage_a": recipe.stage_a.model_copy(update={"batch": 16, "queue": 64, "hardest": 8}),
            "stage_b": recipe.stage_b.model_copy(update={"batch": 4}),
        }
    )


class Bench:
    """The recipe's models on a device, and the real training code over them."""

    def __init__(
        self, recipe: Recipe, accelerator: Accelerator, dtype: torch.dtype, repeats: int, folder: Path
    ) -> None:
        self.recipe, self.accelerator, self.repeats = recipe, accelerator, repeats
        self.device = accelerator.device
        place = str(self.device)
        self.encoder, self.decoder = (
            RandomEncoder(recipe.encoder, place, dtype), RandomDecoder(recipe.decoder, place, dtype),
        )  # fmt: skip
        self.cache = FeatureCache(folder, self.encoder)
        self.foreign = [text(n, FOREIGN) for n in range(4 * recipe.stage_b.batch)]
        self.cache.ensure(self.foreign)
        self.rows = BATCH_TOKENS // FOREIGN

    def _clock(self, act: Callable[[], Any]) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        act()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def _each(self, steps: Callable[[int], Any]) -> tuple[float, float]:
        """Seconds a step, what a run needs once taken off; and the most bytes a GPU held (0 on a CPU)."""
        steps(1)
        once = self._clock(lambda: steps(WARM))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        whole = self._clock(lambda: steps(WARM + self.repeats))
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        return max(whole - once, 1e-9) / self.repeats, peak

    def encoding(self) -> tuple[float, float]:
        """A batch of the feature cache."""
        batch = [text(n, FOREIGN) for n in range(self.rows)]
        return self._each(lambda steps: [self.encoder.encode(batch).pooled.cpu() for _ in range(steps)])

    def teacher(self) -> tuple[float, float]:
        """A batch of teacher states."""
        teacher = TeacherEncoder(self.decoder, self.recipe.teacher)
        batch = [text(n, ENGLISH) for n in range(BATCH_TOKENS // ENGLISH)]
        return self._each(lambda steps: [teacher.encode(batch).pooled.cpu() for _ in range(steps)])

    def stage_a(self) -> tuple[float, float]:
        """A step of stage A, against a full queue after the first run's steps."""
        config = self.recipe.stage_a
        count = config.batch * 64
        draw = torch.Generator().manual_seed(1)
        data = AlignmentData(
            torch.randn(count, self.encoder.hidden_size, generator=draw),
            torch.randn(count, self.decoder.hidden_size, generator=draw), torch.arange(count),
        )  # fmt: skip
        bridge = Bridge.create(self.encoder, self.decoder, self.recipe.projector, self.recipe.injector)
        fill = -(-config.queue // config.batch)  # steps until the queue is full

        def steps(number: int) -> None:
            run = config.model_copy(update={"epochs": (fill + number) / 64})
            train_stage_a(bridge.projector, data, run, seed=1, accelerator=self.accelerator)

        return self._each(steps)

    def stage_b(self) -> tuple[float, float]:
        """A step of stage B; the decoder carries a LoRA afterwards."""
        config = self.recipe.stage_b
        bridge = Bridge.create(self.encoder, self.decoder, self.recipe.projector, self.recipe.injector)
        lora = add_lora(self.decoder, config)
        examples = [
            Example(f, "translate", text(-n, ENGLISH), text(-n, ENGLISH)) for n, f in enumerate(self.foreign, 1)
        ]

        def steps(number: int) -> None:
            run = config.model_copy(update={"examples": number * config.batch})
            train_stage_b(
                bridge, self.decoder, lora, self.cache, examples, run, seed=1, accelerator=self.accelerator,
            )  # fmt: skip

        return self._each(steps)


def known_device(name: str) -> str:
    """Which of the estimator's devices this GPU is; the first where it is none of them."""
    low = name.lower()
    fitting = [known for known in sizing.devices() if known.partition("-")[0] in low]
    return fitting[0] if fitting else next(iter(sizing.devices()))


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__ or "", repeats=20)
    parser.add_argument("--tiny", action="store_true", help="tiny models on whatever there is: does it all run?")
    parser.add_argument("--device", choices=list(sizing.devices()), help="what to foretell for, without a GPU: h100")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    measured = cuda or options.tiny
    name = options.device or (known_device(torch.cuda.get_device_name()) if cuda else "cpu" if options.tiny else "h100")
    where = sizing.device(name)
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(named_recipe(RECIPE))
        if options.tiny:
            recipe = tiny(recipe, Path(folder))
        dtype = where.dtype(recipe.dtype)
        found: dict[str, tuple[float, float]] = {}
        lengths = Lengths(FOREIGN, ENGLISH)
        if measured:
            bench = Bench(recipe, Accelerator(cpu=not cuda), getattr(torch, dtype), options.repeats, Path(folder))
            prompt = build(bench.decoder, TASKS["translate"], slots=recipe.injector.most)
            lengths = Lengths(FOREIGN, ENGLISH, len(prompt.prefix), len(prompt.suffix))
            # Stage B last: it leaves a LoRA on the decoder.
            acts = {
                "encoding": bench.encoding,
                "teacher states": bench.teacher,
                "stage A": bench.stage_a,
                "stage B": bench.stage_b,
            }
            found = {part: act() for part, act in acts.items()}
        plan = sizing.Plan(recipe, where, lengths=lengths)
        foretold = {part.name: part for part in plan.parts(sizing.MFU)}
    peak = where.peak(dtype)
    sizes = {m.stage: m for m in plan.memory()}
    a, b = recipe.stage_a.batch, recipe.stage_b.batch
    # What a step does: FLOPs, tokens, and bytes at its peak. Dev losses are in no step.
    batches = BATCH_TOKENS // FOREIGN, BATCH_TOKENS // ENGLISH
    teacher_tokens = ENGLISH + 1
    work = {
        "encoding": (batches[0] * plan.encoder.forward(FOREIGN + 2, FOREIGN + 2), batches[0] * FOREIGN, 0.0),
        "teacher states": (batches[1] * plan.bare.forward(teacher_tokens, teacher_tokens), batches[1] * ENGLISH, 0.0),
        "stage A": (plan.stage_a_step(), a * FOREIGN, sizes["A"].total),
        "stage B": (plan.injection_step(recipe.stage_b), b * plan.row_tokens(ENGLISH), sizes["B"].total),
    }
    rows, bars = [], {}
    for part, (flops, tokens, memory) in work.items():
        guess = foretold[part].seconds / foretold[part].steps
        seconds, held = found.get(part, (0.0, 0.0))
        bars[part] = (guess * 1e3, seconds * 1e3)
        rows.append([
            part, f"{flops / 1e9:.4g}", f"{guess * 1e3:.3g}", f"{seconds * 1e3:.3g}" if seconds else "-",
            f"{tokens / (seconds or guess):,.0f}", f"{flops / (seconds or guess) / peak:.1%}",
            f"{memory / 1e9:.2f}" if memory else "-", f"{held / 1e9:.2f}" if held else "-",
        ])  # fmt: skip
    header = [
        "step of", "GFLOP", "ms, estimated", "ms, measured", "tokens/s", "utilisation", "GB, estimated", "GB, measured",
    ]  # fmt: skip
    pair = "a tiny pair" if options.tiny else f"{recipe.encoder.name} and {recipe.decoder.name}, random weights"
    notes = [
        f"Recipe `{RECIPE}`, {pair}: batches of {a} in stage A and {b} in stage B, {FOREIGN} encoder tokens a text, "
        f"{ENGLISH} decoder tokens of English. Estimated for {where.about} in {dtype} at {sizing.MFU:.0%} of its peak of "
        f"{peak / 1e12:.4g} TFLOP/s, memory at the longest target. Tokens/s and utilisation are of the "
        f"{'measured' if measured else 'estimated'} time; a GPU's utilisation is low where launching kernels bounds a step.",
    ]
    if cuda:
        last = f"Measured on {torch.cuda.get_device_name()}, torch {torch.__version__}."
    elif measured:
        last = f"Measured on {os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}."
    else:
        last = "No GPU was at hand: these are the estimator's numbers, which a GPU must yet confirm."
    report("gpu", options.docs, drawing(bars, measured), header, rows, notes, last)


def drawing(bars: Mapping[str, tuple[float, float]], measured: bool) -> Any:
    """Milliseconds a step, estimated beside measured; None without matplotlib."""
    try:
        fig, axes = figure("Stage A and stage B of the paper's pair")
    except ImportError:
        return None
    places = range(len(bars))
    axes.bar([p - 0.2 for p in places], [guess for guess, _ in bars.values()], 0.4, label="estimated")
    if measured:
        axes.bar([p + 0.2 for p in places], [real for _, real in bars.values()], 0.4, label="measured")
    axes.set(ylabel="ms a step", yscale="log", xticks=list(places), xticklabels=list(bars))
    axes.legend()
    return fig


if __name__ == "__main__":
    main()
