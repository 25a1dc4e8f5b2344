"""Long texts: is a page answered from all of it, or from its beginning? Quality and use of the slots by position."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from llink.adapter.prompt import TASKS, Prompt
from llink.data.pairs import Pair
from llink.errors import LlinkError
from llink.evaluation.base import UNREADABLE, Evaluator, Metrics, Result, Skip, Subject, mean, prediction
from llink.evaluation.baselines import baseline_answers, readers
from llink.interfaces import Language
from llink.progress import track
from llink.serving.reader import Piece

PAGES = 8
SENTENCES = 20
"""Of a page."""
FOREIGN = 3
"""Other pages, each of which brings a reference to compare with."""
TOKENS = 640
"""An answer has at most. The page's reference and a quarter more is room for all of it, and mostly less."""
BATCH = 4
"""Passages whose slots are taken away at a time."""
THIRDS = ("first third", "middle third", "last third")
READ = 0.7
"""Recall from which on a page was read; by chance it is 0.5 at most."""
INSTRUCTION = TASKS["translate"]
"""A free instruction puts all passages of a page into one prompt; the task itself goes sentence by sentence."""
ALONE = "sentence by sentence"

Score = Callable[[str, str], float]
"""Of a text against its reference."""


@dataclass(frozen=True)
class Page:
    """Sentences as one text, and the passages that the engine makes of it.

    Attributes:
        rows: the sentences, in order.
        pair: all of it as one pair of texts.
        pieces: the passages, as the engine reads them.
        prompt: with slots for all of them.
        tokens: of each sentence's reference, as they follow each other in that of the page.
    """

    rows: list[Pair]
    pair: Pair
    pieces: list[Piece]
    prompt: Prompt
    tokens: list[list[int]]

    def places(self) -> list[range]:
        """Of each passage, the places of its sentences."""
        found, start = [], 0
        for piece in self.pieces:
            end, length = start, -1
            while end < len(self.rows) and length < len(piece.text):
                length += 1 + len(self.rows[end].foreign)
                end += 1
            found.append(range(start, end))
            start = end
        return found


class Long(Evaluator):
    """Pages of 20 sentences, each read in one prompt: what the answer says of the sentence at each place.

    ``chrf++`` of a sentence is that of the stretch of the answer that is most like its reference, ``chrf++ chance`` the
    same for the references at its place on other pages. ``recall`` is how often its own scores higher: 0.5 at most for an
    answer that has nothing of the page, 0 for an empty one. ``usage_gap`` is what the slots of a sentence's passage are
    worth, in nats per token of its reference, while all the others stand. ``sentence by sentence`` is the same page
    translated so.
    """

    name = "long"
    primary_metric = "recall"

    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        from sacrebleu.metrics import CHRF

        chosen = sentences(rows[: subject.limit], subject.language, subject.seed)
        if len(chosen) < 4:
            raise Skip("there are not four single sentences for two pages")
        pages, cut = pages_of(subject, chosen)
        whole = [page.pair for page in pages]
        limit = room_for(page.tokens for page in pages)
        answers = {"": subject.answers(whole, INSTRUCTION, limit)}
        alone = iter(subject.answers([row for page in pages for row in page.rows]))
        answers[f" {ALONE}"] = [" ".join(next(alone) for _ in page.rows) for page in pages]
        if "english" in readers(subject):
            answers[" english"] = baseline_answers(subject, "english", whole, tokens=limit)
        chrf = CHRF(word_order=2)
        found = {
            system: compared(pages, given, lambda text, reference: float(chrf.sentence_score(text, [reference]).score))
            for system, given in answers.items()
        }
        gaps = usage_gaps(subject, pages)
        places = [(number, place) for number, page in enumerate(pages) for place in range(len(page.rows))]
        measures: dict[str, dict[tuple[int, int], float]] = {}
        for system, scored in found.items():
            measures[f"recall{system}"] = {at: scored[at].recall for at in places}
            measures[f"chrf++{system}"] = {at: scored[at].own for at in places}
        measures["chrf++ chance"] = {at: found[""][at].chance for at in places}
        measures["usage_gap"] = gaps
        metrics: Metrics = {"pages": len(pages), "sentences": len(places)}
        metrics |= {name: mean(values.values()) for name, values in measures.items()}
        for name, values in measures.items():
            for third, label in enumerate(THIRDS):
                here = [values[at] for at in places if at[1] * 3 // len(pages[at[0]].rows) == third]
                if here:
                    metrics[f"{name} [{label}]"] = mean(here)
        for name in ("chrf++", "usage_gap"):
            for place in range(max(len(page.rows) for page in pages)):
                metrics[f"{name} [place {place + 1:02}]"] = mean(measures[name][at] for at in places if at[1] == place)
        predictions = [
            prediction(
                pages[number].rows[place],
                {name: measures[name][number, place] for name in ("recall", "chrf++", "usage_gap")},
                page=number + 1, place=place + 1, answer=found[""][number, place].stretch,
                chance=found[""][number, place].chance,
                against={system.strip(): scored[number, place].own for system, scored in found.items() if system},
            )
            for number, place in places
        ]  # fmt: skip
        notes = {"chrf++": str(chrf.get_signature())}
        if cut:
            sizes = ", ".join(str(len(page.rows)) for page in pages)
            notes["pages"] = f"{cut} of {len(pages)} were cut to what fits into one prompt: {sizes} sentences."
        return Result(metrics, predictions, warnings(metrics), notes)


def warnings(metrics: Metrics) -> list[str]:
    """What a low recall means: that the adapter cannot do it, or cannot do it in one prompt."""
    if metrics["recall"] >= READ or metrics[f"recall {ALONE}"] < READ:
        return []  # where single sentences are not understood either, other suites say so
    cure = "Train stage B with a long_share."
    if metrics.get("recall english", READ) < READ:
        cure = f"The decoder makes no more of the page in English ({metrics['recall english']:.2f}): take a larger one."
    return [
        f"Pages are not read: recall {metrics['recall']:.2f} in one prompt, {metrics[f'recall {ALONE}']:.2f} sentence by "
        f"sentence. {cure}"
    ]


def sentences(rows: Sequence[Pair], language: Language, seed: int) -> list[Pair]:
    """At most ``PAGES`` times ``SENTENCES`` pairs, drawn by seed: single sentences of a length that adapters are trained
    on, no text twice."""
    from llink.serving.reader import LONG

    found: dict[str, Pair] = {}
    for pair in {p.foreign: p for p in rows}.values():
        if len(pair.foreign) <= LONG and language.sentences(pair.foreign) == [pair.foreign]:
            found.setdefault(pair.english.casefold(), pair)
    picked = list(found.values())
    random.Random(seed).shuffle(picked)
    return picked[: PAGES * SENTENCES]


def joined(rows: Sequence[Pair], language: Language) -> str:
    """Sentences as one text, which the language cuts into them again: a line break where a space would not do."""
    text = rows[0].foreign
    for before, after in pairwise(rows):
        together = f"{before.foreign} {after.foreign}"
        cut = language.sentences(together) == [before.foreign, after.foreign]
        text += f"{' ' if cut else chr(10)}{after.foreign}"
    return text


def pages_of(subject: Subject, rows: Sequence[Pair]) -> tuple[list[Page], int]:
    """The sentences as pages of ``SENTENCES``, two at least, and how many were cut because a prompt holds no more."""
    count = max(2, len(rows) // SENTENCES)
    size = min(len(rows) // count, SENTENCES)
    pages = [page_of(subject, rows[n * size : (n + 1) * size]) for n in range(count)]
    return pages, sum(len(page.rows) < size for page in pages)


def page_of(subject: Subject, rows: Sequence[Pair]) -> Page:
    """As many of the sentences as one prompt holds, with room for the answer; raises ``Skip`` where that is not one."""
    decoder: Any = subject.engine.decoder
    reader, resident = subject.engine.reader, subject.engine.resident(subject.code)
    room = getattr(decoder.model.config, "max_position_embeddings", None)
    for count in range(len(rows), 0, -1):
        some = list(rows[:count])
        text = joined(some, subject.language)
        try:
            pieces = reader.pieces(text, resident)
        except LlinkError as error:
            if error.code not in UNREADABLE:
                raise
            continue
        prompt = reader.prompt(INSTRUCTION, resident, pieces)
        tokens = [decoder.tokenize(f" {p.english}" if n else p.english) for n, p in enumerate(some)]
        if room is None or len(prompt.ids) + room_for([tokens]) <= room:
            return Page(some, Pair(" ".join(p.english for p in some), text, "page"), pieces, prompt, tokens)
    raise Skip("not one sentence fits into a prompt")


def room_for(references: Iterable[Sequence[Sequence[int]]]) -> int:
    """Tokens that an answer may have: a quarter more than the longest reference, which is one list a sentence."""
    return min(max(sum(map(len, tokens)) for tokens in references) * 5 // 4 + 1, TOKENS)


@dataclass(frozen=True)
class Found:
    """What an answer says of one sentence.

    Attributes:
        stretch: where it is most like the sentence's reference. own: how like. chance: the same for other pages'.
        recall: share of those that its own is above.
    """

    stretch: str
    own: float
    chance: float
    recall: float


def compared(pages: Sequence[Page], answers: Sequence[str], score: Score) -> dict[tuple[int, int], Found]:
    """By number of the page and place in it."""
    found = {}
    with track("Comparing", total=sum(len(page.rows) for page in pages)) as bar:
        for number, (page, answer) in enumerate(zip(pages, answers, strict=True)):
            others = [pages[(number + n) % len(pages)] for n in range(1, min(FOREIGN, len(pages) - 1) + 1)]
            for place, pair in enumerate(page.rows):
                stretch, own = best_stretch(answer, pair.english, score)
                rivals = [other.rows[min(place, len(other.rows) - 1)].english for other in others]
                scores = [best_stretch(answer, rival, score)[1] for rival in rivals]
                found[number, place] = Found(stretch, own, mean(scores), mean(own > rival for rival in scores))
                bar(1)
    return found


def best_stretch(answer: str, reference: str, score: Score) -> tuple[str, float]:
    """As many words of the answer in a row as the reference has, where they are most like it, and how like."""
    words, width = answer.split(), max(1, len(reference.split()))
    last = max(0, len(words) - width)
    known: dict[int, float] = {}

    def at(start: int) -> float:
        if start not in known:
            known[start] = score(" ".join(words[start : start + width]), reference)
        return known[start]

    # In strides first, then word by word about the best.
    stride = max(1, width // 4)
    rough = max((*range(0, last, stride), last), key=at)
    best = max(range(max(0, rough - stride + 1), min(last, rough + stride - 1) + 1), key=at)
    return " ".join(words[best : best + width]), at(best)


def usage_gaps(subject: Subject, pages: Sequence[Page]) -> dict[tuple[int, int], float]:
    """Nats per token that each sentence's reference costs more where its passage has reserved rows for slots.

    The reference of the whole page stands before it, and the slots of all other passages are right.
    """
    import torch

    from llink.adapter.slots import target_losses

    engine = subject.engine
    decoder, resident = engine.decoder, engine.resident(subject.code)
    gaps: dict[tuple[int, int], float] = {}
    total = sum(len(page.pieces) for page in pages)
    with engine.using(subject.code), torch.inference_mode(), track("Losses", total=total) as bar:
        for number, page in enumerate(pages):
            own = engine.reader.slots(page.pieces, resident)
            right = torch.cat(own)
            starts = [0, *accumulate(map(len, own))]
            spans = [0, *accumulate(map(len, page.tokens))]
            ids = [token for tokens in page.tokens for token in tokens]
            expected = target_losses(decoder, page.prompt, right[None], [ids])[0]
            places = page.places()
            for first in range(0, len(own), BATCH):
                some = range(first, min(first + BATCH, len(own)))
                less = right.repeat(len(some), 1, 1)
                for row, piece in enumerate(some):
                    count = starts[piece + 1] - starts[piece]
                    less[row, starts[piece] : starts[piece + 1]] = resident.bridge.none(1, count)[0]
                # What is said behind the last of these passages is of no concern to them.
                end = spans[places[some[-1]].stop]
                without = target_losses(decoder, page.prompt, less, [ids[:end]] * len(some))
                for row, piece in enumerate(some):
                    for place in places[piece]:
                        here = slice(spans[place], spans[place + 1])
                        gaps[number, place] = float((without[row, here] - expected[here]).mean())
                bar(len(some))
    return gaps


evaluator = Long()
