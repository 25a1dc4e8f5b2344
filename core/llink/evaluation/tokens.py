"""Tokens: what foreign text costs the decoder as it stands, and as slots: tokens, arithmetic, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from llink.adapter.prompt import TASKS, build
from llink.adapter.slots import filled
from llink.data.pairs import Pair
from llink.evaluation.base import Evaluator, Result, Subject, mean, prediction
from llink.progress import track

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llink.serving.reader import Piece

PAIRS = 200
TIMED = 16
"""How many texts are timed, evenly over their lengths."""
REPEATS = 3


class Tokens(Evaluator):
    """Tokens of the prompt with the text and with its slots, multiply-adds of the first pass over it (counted), and
    its time on this machine (measured; it differs from run to run)."""

    name = "tokens"
    primary_metric = "token ratio"
    lower = frozenset({"prompt tokens"})

    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        rows = subject.first(rows, PAIRS)
        engine, decoder = subject.engine, subject.engine.decoder
        counts = {id(p): (len(decoder.tokenize(p.foreign)), len(decoder.tokenize(p.english))) for p in rows}
        foreign, english = (mean(counts[id(p)][side] for p in rows) for side in (0, 1))
        bare = len(build(decoder, TASKS["translate"], slots=1).ids) - 1
        # Slots and, where the adapter has it, the verbatim channel.
        own = {id(p): len(prompt.ids) - bare for p, prompt in zip(rows, subject.prompts(rows), strict=True)}
        ours = mean(own.values())
        read = engine.encoder.count_tokens([p.foreign for p in rows])
        raw_flops = mean(flops(decoder.model, bare + counts[id(p)][0]) for p in rows)
        slot_flops = mean(flops(decoder.model, bare + n) for n in own.values())
        encoder: Any = getattr(engine.encoder, "model", None)
        encoder_flops = mean(flops(encoder, n, head=False) for n in read) if encoder is not None else 0.0
        metrics = {
            "pairs": len(rows),
            "fragmentation": foreign / english,
            "prompt tokens": bare + ours,
            "prompt tokens raw": bare + foreign,
            "token ratio": foreign / ours,
            "prefill gigaflops": slot_flops / 1e9,
            "prefill gigaflops raw": raw_flops / 1e9,
            "prefill gigaflops ratio": raw_flops / slot_flops,
            "encoder gigaflops": encoder_flops / 1e9,
            "gigaflops ratio with encoder": raw_flops / (slot_flops + encoder_flops),
        }
        timed = self._timed(subject, _spread(rows, lambda p: counts[id(p)][0]))
        sums = {name: sum(seconds[name] for seconds in timed.values()) for name in ("raw", "slots", "encoder")}
        metrics |= {
            "prefill time ratio": sums["raw"] / sums["slots"],
            "time ratio with encoder": sums["raw"] / (sums["slots"] + sums["encoder"]),
        }
        predictions = [
            prediction(
                p, {"prompt tokens": float(bare + own[id(p)])}, tokens=bare + own[id(p)], tokens_raw=bare + counts[id(p)][0],
                **({"seconds": timed[id(p)]} if id(p) in timed else {}),
            )
            for p in rows
        ]  # fmt: skip
        return Result(metrics, predictions)

    def _timed(self, subject: Subject, rows: Sequence[Pair]) -> dict[int, dict[str, float]]:
        """Seconds, by ``id`` of the pair, of the decoder's first pass over text and slots, and of encoder and bridge."""
        import torch

        engine, decoder = subject.engine, subject.engine.decoder
        resident = engine.resident(subject.code)
        device = decoder.embedding_matrix().device
        found = {}
        with torch.inference_mode(), track("Timing", total=len(rows)) as bar:
            for pair in rows:
                [piece] = engine.reader.passages([pair.foreign], resident)

                def read(piece: Piece = piece) -> Tensor:
                    encoded = engine.encoder.encode([piece.text])
                    own = (encoded.pooled.float(), encoded.states.float(), encoded.mask)
                    on_device = (part.to(resident.bridge.reserved.device) for part in own)
                    return resident.bridge(*on_device, piece.k)[0]

                slots = read()
                raw = filled(decoder, build(decoder, TASKS["translate"], text=pair.foreign), None, device)
                prompt = engine.reader.prompt(TASKS["translate"], resident, [piece])
                own = filled(decoder, prompt, slots.to(device), device)
                with engine.using(None):
                    bare = _seconds(partial(_prefill, decoder.model, raw))
                with engine.using(subject.code):
                    ours = _seconds(partial(_prefill, decoder.model, own))
                found[id(pair)] = {"raw": bare, "slots": ours, "encoder": _seconds(read)}
                bar(1)
        return found


def _prefill(model: Any, embeds: Tensor) -> Any:
    return model(inputs_embeds=embeds[None], use_cache=True, logits_to_keep=1)


def _seconds(work: Callable[[], Any]) -> float:
    import torch

    work()  # the first pass of a length allocates
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - start)
    return median(taken)


def _spread(rows: Sequence[Pair], length: Callable[[Pair], int]) -> list[Pair]:
    ordered = sorted(rows, key=length)
    step = max(1, len(ordered) // TIMED)
    return ordered[::step][:TIMED]


def flops(model: nn.Module, tokens: int, head: bool = True) -> float:
    """Floating point operations of one pass over ``tokens`` tokens, a multiply-add as two.

    Every linear layer once a token, attention over all pairs of tokens, and the output head for the last token alone.
    Norms, activations and LoRA are left out (under one per cent).
    """
    from torch import nn

    owner: Any = model
    config = owner.config
    output = owner.get_output_embeddings() if hasattr(owner, "get_output_embeddings") else None
    # XLM-R's pooler is loaded with the model and reads one token.
    linears = [
        m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not output and "pooler" not in name
    ]
    per_token = sum(2 * m.in_features * m.out_features for m in linears)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * size * tokens**2
    last = 2 * output.in_features * output.out_features if head and output is not None else 0
    return float(per_token * tokens + attention + last)


evaluator = Tokens()
