"""The baseline ``cascade``: a translation model makes English of the text, and the same decoder answers from that.

Its translation is what the translation model says; for any other task the decoder reads that as plain English.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import lru_cache, partial

from llink.adapter.prompt import TASKS, build
from llink.adapter.slots import filled, in_batches
from llink.data.kept import Kept
from llink.data.pairs import Pair
from llink.evaluation.base import Metrics, Subject, mean
from llink.evaluation.translators import BATCH, Translator, open_translator
from llink.home import ensure_folder, home
from llink.interfaces import Language
from llink.progress import track


@lru_cache(maxsize=1)
def translator(name: str, language: Language) -> Translator:
    """The model of the baseline, kept for the next suite; E532 and E533 as ``open_translator``."""
    from llink.serving.engine import pick_device

    return open_translator(name, language, pick_device("auto"))


def signature(subject: Subject) -> str:
    """What the baseline is: model, commit, engine, number format, beams."""
    return translator(subject.cascade or "", subject.language).signature


def translations(subject: Subject, texts: Sequence[str]) -> list[str]:
    """The English of texts, kept in ``LLINK_HOME/answers`` so that no run asks twice."""
    model = translator(subject.cascade or "", subject.language)
    known = Kept(ensure_folder(home() / "answers") / f"cascade-{model.fingerprint[:16]}.jsonl")
    keys = {text: _key(subject.code, text) for text in texts}
    missing = sorted((text for text, key in keys.items() if key not in known), key=len)
    with track("Translating (cascade)", total=len(missing)) as bar:
        for part in in_batches(len(missing), BATCH):
            answers = model.translate(missing[part])
            known.keep({keys[text]: answer for text, answer in zip(missing[part], answers, strict=True)})
            bar(len(answers))
    return [known[keys[text]] for text in texts]


def costs(subject: Subject, rows: Sequence[Pair], timed: Sequence[Pair], first_token: float) -> Metrics:
    """What the baseline takes beside the adapter: tokens, arithmetic, time, memory.

    Args:
        rows: whose tokens are counted.
        timed: whose time is measured.
        first_token: seconds to the adapter's first token, the mean over ``timed``.
    """
    import torch

    from llink.evaluation.tokens import _prefill, _seconds, prefill_flops
    from llink.training.shapes import Shape

    engine, decoder = subject.engine, subject.engine.decoder
    shape = Shape.of(decoder.model)
    model = translator(subject.cascade or "", subject.language)
    english = translations(subject, [p.foreign for p in rows])
    prompts = {p.foreign: build(decoder, TASKS["translate"], text=text) for p, text in zip(rows, english, strict=True)}
    lengths = [len(prompts[p.foreign].ids) for p in rows]
    device = decoder.embedding_matrix().device
    reading, translating, answering = [], [], []
    with torch.inference_mode(), engine.using(None), track("Timing the cascade", total=len(timed)) as bar:
        for pair in timed:
            translating.append(_seconds(partial(model.translate, [pair.foreign])))
            embeds = filled(decoder, prompts[pair.foreign], None, device)
            reading.append(_seconds(partial(_prefill, decoder.model, embeds)))
            bar(1)
    for pair in timed:
        start = time.perf_counter()
        engine.generate([pair.foreign], subject.code, task="translate")
        answering.append(time.perf_counter() - start)
    resident = engine.resident(subject.code)
    own = resident.bytes + sum(_bytes(part) for part in (decoder.model, getattr(engine.encoder, "model", None)))
    found: Metrics = {
        "prompt tokens cascade": mean(lengths),
        "prefill gigaflops cascade": mean(prefill_flops(shape, length) for length in lengths) / 1e9,
        "time to first token, ms": 1000 * first_token,
        "time to first token cascade, ms": 1000 * (mean(translating) + mean(reading)),
        "time of a translation, ms": 1000 * mean(answering),
        "time of a translation cascade, ms": 1000 * mean(translating),
        "memory of weights, MB": own / 1e6,
        "memory of weights cascade, MB": (model.bytes + _bytes(decoder.model)) / 1e6,
    }
    counted = _gigaflops(model, [p.foreign for p in timed])
    return found | ({"translator gigaflops": counted} if counted else {})


def _gigaflops(model: Translator, texts: Sequence[str]) -> float:
    """Arithmetic of translating a text, counted while it is done; 0 where torch does not do it."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for text in texts:
            model.translate([text])
    return float(counter.get_total_flops() / len(texts) / 1e9)


def _bytes(model: object) -> int:
    """Memory of a model's weights."""
    from torch import nn

    return sum(p.nbytes for p in model.parameters()) if isinstance(model, nn.Module) else 0


def _key(code: str, text: str) -> str:
    return hashlib.sha256(f"{code}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
