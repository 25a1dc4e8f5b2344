"""Translation: how close to the reference, beside the same decoder reading the text itself; and how answers fail."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence

from llink.adapter.prompt import TASKS, build
from llink.data.pairs import Pair
from llink.evaluation.base import Evaluator, Metrics, Result, Subject, mean, prediction
from llink.evaluation.baselines import baseline_answers, readers
from llink.interfaces import Language
from llink.language.text import script_counts

PAIRS = 40
COMET = "Unbabel/wmt22-comet-da"
# A word or a few, four times or more in a row.
_LOOP = re.compile(r"(?<!\S)(\S+(?:\s+\S+){0,7}?)(?:\s+\1){3,}(?!\S)")


class Translate(Evaluator):
    """chrF++ and BLEU with sacrebleu's signatures, COMET where it is installed, length ratio, and the share of answers
    that are empty, in the foreign script, or a loop."""

    name = "translate"
    primary_metric = "chrf++"

    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        from sacrebleu.metrics import BLEU, CHRF

        rows = subject.first(rows, PAIRS)
        references = [p.english for p in rows]
        chrf, bleu = CHRF(word_order=2), BLEU()
        ours = subject.answers(rows)
        metrics: Metrics = {
            "pairs": len(rows),
            "chrf++": chrf.corpus_score(ours, [references]).score,
            "bleu": bleu.corpus_score(ours, [references]).score,
            "length ratio": sum(map(len, ours)) / sum(map(len, references)),
            "empty": mean(not answer.strip() for answer in ours),
            "copied source": mean(copied(answer, subject.language) for answer in ours),
            "loops": mean(loops(answer) for answer in ours),
        }
        # Most single sentences have no four words in a row right; their BLEU counts the orders they have.
        by_sentence = BLEU(effective_order=True)
        notes = {"chrf++": str(chrf.get_signature()), "bleu": str(bleu.get_signature())}
        beside = {name: baseline_answers(subject, name, rows) for name in readers(subject)}
        for name, answers in beside.items():
            metrics[f"chrf++ {name}"] = chrf.corpus_score(answers, [references]).score
            metrics[f"bleu {name}"] = bleu.corpus_score(answers, [references]).score
        decoder = subject.engine.decoder
        bare = len(build(decoder, TASKS["translate"], slots=1).ids) - 1
        prompts = subject.prompts(rows)
        tokens = mean(len(prompt.ids) - bare for prompt in prompts)
        raw_tokens = mean(len(decoder.tokenize(p.foreign)) for p in rows)
        metrics |= {
            "foreign prompt tokens": tokens,
            "foreign prompt tokens raw": raw_tokens,
            "token ratio": raw_tokens / tokens,
        }
        try:
            metrics["comet"] = comet([p.foreign for p in rows], ours, references)
            notes["comet"] = COMET
        except Exception as error:
            # Whatever an optional package trips over, the other numbers stand.
            notes["comet"] = f"skipped: {' '.join(str(error).split()) or type(error).__name__}"
        predictions = [
            prediction(
                pair,
                {"chrf++": chrf.sentence_score(answer, [pair.english]).score,
                 "bleu": by_sentence.sentence_score(answer, [pair.english]).score},
                answer=answer,
                **{f"answer {name}": answers[i] for name, answers in beside.items()},
            )
            for i, (pair, answer) in enumerate(zip(rows, ours, strict=True))
        ]  # fmt: skip
        return Result(metrics, predictions, failures(metrics), notes)


def failures(metrics: Metrics) -> list[str]:
    """The ways to fail that over a tenth of the answers show."""
    words = {"empty": "are empty", "copied source": "are in the foreign script", "loops": "repeat themselves"}
    return [f"{metrics[name]:.0%} of the answers {what}." for name, what in words.items() if metrics[name] > 0.1]


def copied(answer: str, language: Language) -> bool:
    """Whether most letters of an answer are in the language's own script; never where that is Latin."""
    counts = script_counts(answer)
    own = sum(counts[script] for script in language.scripts if script != "LATIN")
    return own > sum(counts.values()) / 2


def loops(answer: str) -> bool:
    """Whether one to eight words stand four times in a row or more."""
    return _LOOP.search(answer) is not None


def comet(sources: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> float:
    """COMET's score of a system; raises where it is not installed or its model cannot be had."""
    if importlib.util.find_spec("comet") is None:
        raise ModuleNotFoundError("COMET is not installed (pip install unbabel-comet)")
    from comet import download_model, load_from_checkpoint

    rows = [{"src": s, "mt": a, "ref": r} for s, a, r in zip(sources, answers, references, strict=True)]
    model = load_from_checkpoint(download_model(COMET))
    return float(model.predict(rows, batch_size=8, gpus=0, progress_bar=False).system_score)


evaluator = Translate()
