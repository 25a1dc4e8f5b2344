"""Usage: does the decoder read the slots? Its loss with the right ones, with none, and with others'."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from llink.adapter.prompt import TASKS
from llink.data.pairs import Pair
from llink.errors import LlinkError
from llink.evaluation.base import Evaluator, Metrics, Result, Subject, mean, prediction
from llink.progress import track

if TYPE_CHECKING:
    from llink.adapter.bridge import Bridge

PAIRS = 200
BATCH = 16
OTHERS = 3
"""Every third batch is read with the slots of other languages too; each of them takes as long as the rest."""
POSITIONS = 16
IGNORED = 0.1
"""Nats a token. A gap below this is what other wording of the prompt is worth: the slots are ignored."""


class Usage(Evaluator):
    """Nats per token of the English with the right slots, reserved rows (zero), another text's slots, and those that
    another language's bridge makes of the text; the gaps between them, over all and by position in the answer.

    Texts are sorted by number of slots and target length first; "shuffled" gives each text the slots of its neighbour, which is then of
    like length and the harder test. The verbatim channel, where the adapter has it, is always the text's own: the gaps
    say what the slots are worth beside it.
    """

    name = "usage"
    primary_metric = "usage_gap"
    lower = frozenset({"right"})

    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        import torch

        from llink.adapter.slots import in_batches, target_losses
        from llink.training.warm_start import features

        rows = subject.first(rows, PAIRS)
        subject.cache.ensure([p.foreign for p in rows])
        reader, resident = subject.engine.reader, subject.engine.resident(subject.code)
        decoder, bridge = subject.engine.decoder, resident.bridge
        pieces = dict(zip(rows, reader.passages([p.foreign for p in rows], resident), strict=True))
        rows = sorted(rows, key=lambda p: (pieces[p].k, len(p.english)))
        others = other_bridges(subject)
        losses: dict[str, dict[int, list[float]]] = {}
        with subject.engine.using(subject.code), torch.inference_mode(), track("Losses", total=len(rows)) as bar:
            for number, part in enumerate(in_batches(len(rows), BATCH)):
                wanted = [decoder.tokenize(p.english) for p in rows[part]]
                read = features(subject.cache, [p.foreign for p in rows[part]], bridge.reserved.device)
                count = max(pieces[p].k for p in rows[part])
                slots = bridge(*read, count)
                prompts = [reader.prompt(TASKS["translate"], resident, [pieces[p]], slots=count) for p in rows[part]]
                kinds = {"right": slots, "zero": bridge.none(len(slots), count)}
                if len(rows) > 1:
                    kinds["shuffled"] = slots.roll(1, 0)
                if number % OTHERS == 0:
                    kinds |= {f"slots of {code}": other(*read, count) for code, other in others.items()}
                for kind, given in kinds.items():
                    found = target_losses(decoder, prompts, given, wanted).tolist()
                    own = [loss[: len(target) + 1] for loss, target in zip(found, wanted, strict=True)]
                    losses.setdefault(kind, {}).update(zip(range(len(rows))[part], own, strict=True))
                bar(len(rows[part]))
        metrics: Metrics = {"pairs": len(rows)}
        metrics |= {kind: mean(chain.from_iterable(of.values())) for kind, of in losses.items()}
        metrics["usage_gap"] = metrics["zero"] - metrics["right"]
        if "shuffled" in losses:
            metrics["shuffle_gap"] = metrics["shuffled"] - metrics["right"]
        for code in others:
            same = (losses["right"][i] for i in losses[f"slots of {code}"])
            metrics[f"gap to slots of {code}"] = metrics[f"slots of {code}"] - mean(chain.from_iterable(same))
        for place in range(POSITIONS):
            here = [(losses["zero"][i][place], r[place]) for i, r in losses["right"].items() if place < len(r)]
            if here:
                metrics[f"usage_gap [token {place + 1:02}]"] = mean(zero - right for zero, right in here)
        predictions = [
            prediction(
                pair,
                {"right": mean(losses["right"][i]), "usage_gap": mean(losses["zero"][i]) - mean(losses["right"][i])},
                losses={kind: [round(x, 4) for x in of[i][:POSITIONS]] for kind, of in losses.items() if i in of},
            )
            for i, pair in enumerate(rows)
        ]
        return Result(metrics, predictions, signatures(metrics))


def signatures(metrics: Metrics) -> list[str]:
    """The failures that the gaps show."""
    if not metrics["usage_gap"] >= IGNORED:
        return [
            f"Slot ignored: the right slots are worth {metrics['usage_gap']:.2f} nats a token; under {IGNORED} the "
            "decoder answers as if there were none. Train stage B longer, after a stage A that retrieves well."
        ]
    if not metrics.get("shuffle_gap", IGNORED) >= IGNORED:
        return [
            f"Content ignored: another text's slots serve as well ({metrics['shuffle_gap']:.2f} nats a token); the "
            "decoder has learnt that there are slots, not what they say."
        ]
    return []


def other_bridges(subject: Subject) -> dict[str, Bridge]:
    """The bridges of other languages for the same pair of models and as many slots; those that do not fit are left out."""
    from llink.plugins import languages

    slots = subject.engine.resident(subject.code).bridge.choice.slots
    found = {}
    for code in languages():
        if code != subject.code:
            try:
                bridge = subject.engine.resident(code).bridge
            except LlinkError:
                continue  # no adapter, or one for another reading of the encoder
            if bridge.choice.slots == slots:
                found[code] = bridge
    return found


evaluator = Usage()
