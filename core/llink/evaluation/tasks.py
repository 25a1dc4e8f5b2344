"""Tasks: is the answer about the foreign text the one that the frozen decoder gives to its English?

The references are self-distilled, on held-out text: "as good as if it had read English" is 1.0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from llink.data.pairs import Pair
from llink.evaluation.base import Evaluator, Metrics, Result, Skip, Subject, mean, prediction
from llink.evaluation.baselines import baseline_answers, readers
from llink.home import home

PAIRS = 12
TOKENS = 48


class Tasks(Evaluator):
    """Agreement with the decoder's answer to the English, from 0 to 1, for summary, title, key points and question.

    ``agreement`` is chrF++; ``similarity`` is the encoder's, 0 for another text's answer and 1 for the same words;
    ``answer match`` is the F1 of words, for the question. ``raw`` beside them is the decoder that read the foreign text.
    """

    name = "tasks"
    primary_metric = "agreement"

    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        from sacrebleu.metrics import CHRF

        from llink.data.instruct import distil

        rows = subject.first(rows, PAIRS)
        with subject.engine.using(None):
            distilled = distil(subject.engine.decoder, [p.english for p in rows], home() / "distilled", TOKENS)
        if not distilled:
            raise Skip("the decoder ends none of its answers to the English text")
        asked = [(rows[i], task) for i, task, _ in distilled]
        references = [answer for _, _, answer in distilled]
        systems = {"": _answers(asked, subject.answers)}
        for name in readers(subject):
            if name != "english":  # that is the reference
                systems[f" {name}"] = _answers(asked, partial(baseline_answers, subject, name))
        chrf = CHRF(word_order=2)
        metrics: Metrics = {"questions": len(asked)}
        likeness: dict[str, list[float]] = {}
        for system, answers in systems.items():
            metrics[f"agreement{system}"] = chrf.corpus_score(answers, [references]).score / 100
            likeness[system] = similarity(subject, answers, references)
            if likeness[system]:
                metrics[f"similarity{system}"] = mean(likeness[system])
            matches = [f1(a, r) for a, r, (_, task) in zip(answers, references, asked, strict=True) if task == "qa"]
            if matches:
                metrics[f"answer match{system}"] = mean(matches)
            for task in dict.fromkeys(task for _, task in asked):
                own = [(a, r) for a, r, (_, of) in zip(answers, references, asked, strict=True) if of == task]
                score = chrf.corpus_score([a for a, _ in own], [[r for _, r in own]]).score / 100
                metrics[f"agreement{system} [{task}]"] = score
        predictions = [
            prediction(
                pair,
                {"agreement": chrf.sentence_score(answer, [reference]).score / 100, "f1": f1(answer, reference)},
                task=task,
                answer=answer,
                reference=reference,
            )
            for (pair, task), answer, reference in zip(asked, systems[""], references, strict=True)
        ]
        return Result(metrics, predictions, notes={"agreement": str(chrf.get_signature())})


def _answers(asked: Sequence[tuple[Pair, str]], ask: Callable[[list[Pair], str], list[str]]) -> list[str]:
    """Answers in the order of ``asked``; ``ask`` gets all texts of one task at once."""
    by_task: dict[str, list[Pair]] = {}
    for pair, task in asked:
        by_task.setdefault(task, []).append(pair)
    answers = {task: iter(ask(rows, task)) for task, rows in by_task.items()}
    return [next(answers[task]) for _, task in asked]


def similarity(subject: Subject, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """The encoder's likeness of each answer to its reference, on a scale where another text's reference is 0 and the
    same words are 1; empty where one reference, or none but the same, leaves no scale."""
    import torch
    from torch.nn import functional as F

    subject.cache.ensure([text for text in (*answers, *references) if text.strip()])
    zero = torch.zeros(subject.engine.encoder.hidden_size)
    vectors = [
        torch.stack([subject.cache.pooled([t])[0] if t.strip() else zero for t in texts])
        for texts in (answers, references)
    ]
    ours, theirs = vectors[0] - vectors[1].mean(0), vectors[1] - vectors[1].mean(0)
    cosine = F.cosine_similarity(ours, theirs)
    # An answer of nothing is like nothing, not like the mean.
    cosine[[i for i, text in enumerate(answers) if not text.strip()]] = 0.0
    unit = F.normalize(theirs, dim=-1)
    others = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
    if not len(others) or not float(others.mean()) < 0.999:
        return []
    floor = float(others.mean())
    likeness: list[float] = ((cosine - floor) / (1 - floor)).tolist()
    return likeness


def f1(answer: str, reference: str) -> float:
    """F1 of the words of two answers, as in SQuAD (Rajpurkar et al., 2016), without its articles' rule."""
    given, wanted = Counter(_words(answer)), Counter(_words(reference))
    common = (given & wanted).total()
    return 2 * common / (given.total() + wanted.total()) if common else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


evaluator = Tasks()
