"""English: what the adapter costs the decoder's English. Nothing while it is not in use; how much while it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llink.adapter.prompt import SLOT, TASKS, build
from llink.data.pairs import Pair
from llink.evaluation.base import Evaluator, Metrics, Result, Subject, mean, prediction
from llink.progress import track

if TYPE_CHECKING:
    from torch import Tensor

    from llink.interfaces import Decoder

PAIRS = 32
HARMED = 0.1
"""Perplexity of English that grows by more than this share is worth a warning."""


class English(Evaluator):
    """Whether the decoder with the adapter resident but unused gives bit for bit the logits of a decoder loaded anew,
    and how the perplexity of English text in an English prompt changes while the adapter is active."""

    name = "english"
    primary_metric = "identical"
    lower = frozenset({"loss active"})

    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        import torch

        from llink.store.models import load_decoder

        rows = subject.first(rows, PAIRS)
        engine = subject.engine
        engine.resident(subject.code)
        table = engine.decoder.embedding_matrix()
        untouched = load_decoder(subject.models[1], device=str(table.device), dtype=str(table.dtype).split(".")[-1])
        same: list[bool] = []
        furthest = 0.0
        losses: dict[str, list[Tensor]] = {"bare": [], "active": []}
        with torch.inference_mode(), track("English", total=len(rows)) as bar:
            for pair in rows:
                wanted, _ = _logits(untouched, pair.english)
                with engine.using(None):
                    given, start = _logits(engine.decoder, pair.english)
                with engine.using(subject.code):
                    active, _ = _logits(engine.decoder, pair.english)
                same.append(torch.equal(wanted, given))
                furthest = max(furthest, float((wanted.float() - given.float()).abs().max()))
                ids = torch.tensor(engine.decoder.tokenize(pair.english), device=given.device)
                for name, logits in (("bare", given), ("active", active)):
                    own = logits[start - 1 : start - 1 + len(ids)].float()
                    losses[name].append(torch.nn.functional.cross_entropy(own, ids, reduction="none").cpu())
                bar(1)
        before, during = (math.exp(float(torch.cat(losses[name]).mean())) for name in ("bare", "active"))
        metrics: Metrics = {
            "texts": len(rows),
            "identical": mean(same),
            "largest difference": furthest,
            "perplexity": before,
            "perplexity active": during,
            "perplexity change": during / before - 1,
        }
        warnings = []
        if metrics["identical"] < 1:
            warnings.append("The decoder is not the one that was loaded, although the adapter is not in use.")
        if metrics["perplexity change"] > HARMED:
            change = metrics["perplexity change"]
            warnings.append(
                f"While it is active the adapter makes English {change:.0%} more surprising to the decoder."
            )
        predictions = [
            prediction(pair, {"loss active": float(a.mean())}, loss=float(b.mean()), identical=ok)
            for pair, b, a, ok in zip(rows, losses["bare"], losses["active"], same, strict=True)
        ]
        return Result(metrics, predictions, warnings)


def _logits(decoder: Decoder, text: str) -> tuple[Tensor, int]:
    """Logits ``[P, V]`` over a prompt about an English text, and where in it the text begins."""
    import torch

    prompt = build(decoder, TASKS["summarize"], text=text)
    start = build(decoder, TASKS["summarize"], slots=1).ids.index(SLOT)
    model: Any = decoder.model
    ids = torch.tensor([prompt.ids], device=decoder.embedding_matrix().device)
    return model(inputs_embeds=decoder.embed(ids)).logits[0], start


evaluator = English()
