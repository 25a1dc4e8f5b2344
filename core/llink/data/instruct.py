"""Instruction data: what a model that reads the English of a pair answers, the slots must lead the decoder to.

The frozen decoder itself is the usual author (self-distillation): "as good as if it had read English" is the goal, and
no larger model is needed for it. Any other chat model may be the author.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llink.adapter.prompt import SYSTEM, TASKS, build
from llink.data.files import lines, written
from llink.data.kept import Kept
from llink.data.pairs import (
    BROKEN,
    LOST,
    Pair,
    Pairs,
    check_sound,
    damage_of,
    held_out,
    same_words,
    share,
    source_file,
)
from llink.errors import LlinkError, unknown_name
from llink.home import ensure_folder
from llink.interfaces import Broken, Decoder
from llink.language.text import script_counts
from llink.progress import track
from llink.recipe import Data
from llink.store.endpoint import Endpoint, is_address, without_thoughts

DISTILLED_TASKS = tuple(task for task in TASKS if task != "translate")
CUT = "[cut off]"
"""Kept in place of an answer that did not end in time: it is of no use."""
BATCH = 16
PARALLEL = 8
"""Requests at once to an endpoint."""
PATIENCE = 300.0
"""Seconds for one answer of an endpoint."""
ENGLISH_SHARE = 0.9
"""Least share of Latin letters in an answer that counts as English."""
COPIED = 0.8
"""Share of the text's words, in one run, from which an answer is a copy of it."""
_REFUSALS = re.compile(
    r"\W*(?:i'?m sorry|i am sorry|sorry,|i apologi[sz]e|as an ai\b|as a language model"
    r"|i(?: can(?:'t|not)|(?:'m| am) (?:unable|not able)| do(?:n't| not) have (?:access|enough))\b"
    r"|(?:please|could you) (?:please )?(?:provide|share) .{0,12}(?:text|article|passage|information|context)"
    r"|(?:there is )?no text (?:was|is|has been|provided)|you (?:have not|haven't|did not|didn't) provided?\b)",
    re.IGNORECASE,
)
_AGAIN = re.compile(r"(\w.{3,80}?)(?:\W*\1){2,}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One example: a text in two languages, what is asked about it, the answer, and where all of it is from."""

    foreign: str
    english: str
    task: str
    instruction: str
    target: str
    source: str = "unknown"
    licence: str = "unknown"
    """Of the pair."""
    model: str = "unknown"
    """Who wrote the target."""
    model_licence: str = "unknown"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about an English text."""

    text: str
    task: str
    instruction: str

    @property
    def key(self) -> str:
        """What the answer is kept under."""
        parts = f"{self.task}\n{self.instruction}\n{self.text}"
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Author(ABC):
    """Answers questions about English texts."""

    name: str
    licence: str
    signature: str
    """All that decides its answers but question and length; they are kept under it."""

    @abstractmethod
    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        """An answer a question, ``CUT`` where it did not end within ``max_new_tokens``.

        Raises:
            LlinkError: E526 when the model cannot be asked.
        """


class DecoderAuthor(Author):
    """A decoder on this machine, greedy."""

    def __init__(self, decoder: Decoder, licence: str = "unknown") -> None:
        self.decoder, self.name, self.licence = decoder, decoder.name, licence
        self.signature = decoder.fingerprint

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        from llink.adapter.slots import answer_ids

        prompts = [build(self.decoder, q.instruction, text=q.text) for q in questions]
        answers = answer_ids(self.decoder, prompts, max_new_tokens)
        return [CUT if len(ids) >= max_new_tokens else self.decoder.detokenize(ids) for ids in answers]


class EndpointAuthor(Author):
    """A chat model behind an endpoint, a few requests at once."""

    def __init__(self, endpoint: Endpoint, licence: str = "unknown") -> None:
        self.endpoint, self.name, self.licence = endpoint, endpoint.model, licence
        self.signature = hashlib.sha256(endpoint.signature.encode()).hexdigest()

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        def ask(question: Question) -> str:
            text, ended = self.endpoint.reply(SYSTEM, f"{question.instruction}\n{question.text}", max_new_tokens)
            return without_thoughts(text) if ended else CUT

        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(ask, questions))


def open_author(name: str, licence: str | None = None, device: str = "auto", **options: Any) -> Author:
    """An author by name: ``http://HOST/v1#MODEL`` of an OpenAI-compatible endpoint, else a decoder of the registry or a folder.

    Args:
        licence: of the model; None for what the registry says.
        options: of a local decoder's backend.

    Raises:
        LlinkError: E526 for an address without a model, E1xx when a local model cannot be had.
    """
    if is_address(name):
        return EndpointAuthor(Endpoint.at(name, timeout=PATIENCE), licence or "unknown")
    from llink.store import ensure
    from llink.store.models import load_decoder, pick_device

    stored = ensure(name, role="decoder")
    return DecoderAuthor(load_decoder(name, device=pick_device(device), **options), licence or stored.licence)


def answers(
    author: Author, questions: Sequence[Question], folder: Path, max_new_tokens: int, label: str = "Answering"
) -> list[str]:
    """Answers to questions, those given before taken from ``folder``; a run that breaks off loses a batch at most."""
    known = Kept(ensure_folder(folder) / f"{author.signature[:16]}-{max_new_tokens}.jsonl")
    missing = sorted({q.key: q for q in questions if q.key not in known}.values(), key=lambda q: len(q.text))
    with track(label, total=len(missing)) as bar:
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            found = author.answer(batch, max_new_tokens)
            known.keep({q.key: answer for q, answer in zip(batch, found, strict=True)})
            bar(len(batch))
    return [known[q.key] for q in questions]


def distil(
    decoder: Decoder, english: Sequence[str], folder: Path, max_new_tokens: int = 48
) -> list[tuple[int, str, str]]:
    """Answers of the frozen decoder to the tasks other than translation, text i getting task i modulo their number.

    Args:
        english: texts, each answered for one task.
        folder: finished answers are kept here, so that a killed run goes on.
        max_new_tokens: longer answers are left out: a cut-off answer teaches rambling.

    Returns:
        (index of the text, task, answer); empty and unfinished answers are left out.
    """
    tasks = [DISTILLED_TASKS[i % len(DISTILLED_TASKS)] for i in range(len(english))]
    questions = [Question(text, task, TASKS[task]) for text, task in zip(english, tasks, strict=True)]
    found = answers(DecoderAuthor(decoder), questions, folder, max_new_tokens, "Self-distillation")
    return [
        (i, task, answer)
        for i, (task, answer) in enumerate(zip(tasks, found, strict=True))
        if answer != CUT and 0 < len(decoder.tokenize(answer)) < max_new_tokens - 1
    ]


@cache
def templates() -> dict[str, tuple[str, ...]]:
    """The phrasings of every task but translation; the first is that of ``TASKS``."""
    return {task: (TASKS[task], *_settings()[task]["phrasings"]) for task in DISTILLED_TASKS}


@cache
def _settings() -> dict[str, Any]:
    return dict(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")))


def chosen(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """``count`` of the ``4 * count`` pairs with the longest English, where there is something to ask about.

    Which ones depends on their English and the seed alone.
    """
    long = sorted(pairs, key=lambda p: -len(p.english.split()))[: 4 * count]
    return sorted(long, key=lambda p: share(f"{seed}\n{p.english}"))[:count]


def check_tasks(tasks: Sequence[str]) -> None:
    """E501 for a task that instruction data has not."""
    for task in tasks:
        if task not in templates():
            raise unknown_name("E501", "task of instruction data", task, templates())


def question(english: str, tasks: Sequence[str], seed: int) -> Question:
    """What is asked about a text: a task and a phrasing of it, which depend on the text and the seed alone."""
    task = tasks[int(share(f"{seed} task\n{english}") * len(tasks))]
    phrasings = templates()[task]
    return Question(english, task, phrasings[int(share(f"{seed} phrasing\n{english}") * len(phrasings))])


def fault(asked: Question, answer: str) -> str | None:
    """Why an answer is no target, in the words of the summary; None where it is one."""
    if answer == CUT:
        return "unfinished"
    words = _words(answer)
    if not words:
        return "empty"
    least, most = _settings()[asked.task]["words"]
    if _REFUSALS.match(answer.replace("’", "'")):
        return "refusals"
    scripts = script_counts(answer)
    if scripts["LATIN"] < ENGLISH_SHARE * scripts.total():
        return "not English"
    if _loops(answer, words):
        return "loops"
    if _copies(words, _words(asked.text)) or words == _words(asked.instruction):
        return "copies"
    if not least <= len(words) <= most:
        return "too short or too long"
    return None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _loops(answer: str, words: Sequence[str]) -> bool:
    """Whether the same thing stands three times in a row, or under half of all runs of three words are distinct."""
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return bool(_AGAIN.search(answer)) or (len(runs) >= 8 and len(set(runs)) < len(runs) / 2)


def _copies(answer: Sequence[str], text: Sequence[str]) -> bool:
    match = SequenceMatcher(None, answer, text, autojunk=False).find_longest_match()
    return bool(text) and match.size >= COPIED * len(text)


@dataclass
class Made:
    """Instruction data as it was made: its rows, and how many answers were left out, by task and reason."""

    rows: list[Instruction]
    asked: Counter[str]
    left_out: dict[str, Counter[str]]


def make(
    author: Author,
    pairs: Sequence[Pair],
    folder: Path,
    *,
    tasks: Sequence[str] = DISTILLED_TASKS,
    max_new_tokens: int = 96,
    seed: int = 17,
) -> Made:
    """Ask the author one question about the English of each pair, and keep the answers that are targets.

    Args:
        folder: answers are kept here.

    Raises:
        LlinkError: E501 for an unknown task, E526 when the author cannot be asked.
    """
    check_tasks(tasks)
    asked = [question(pair.english, tasks, seed) for pair in pairs]
    made = Made([], Counter(q.task for q in asked), {})
    seen: set[tuple[str, str]] = set()
    for pair, one, answer in zip(pairs, asked, answers(author, asked, folder, max_new_tokens), strict=True):
        why = fault(one, answer) or ("duplicates" if (pair.foreign, one.instruction) in seen else None)
        if why:
            made.left_out.setdefault(one.task, Counter())[why] += 1
            continue
        seen.add((pair.foreign, one.instruction))
        made.rows.append(
            Instruction(
                pair.foreign, pair.english, one.task, one.instruction, answer.strip(), pair.source, pair.licence,
                author.name, author.licence,
            )
        )  # fmt: skip
    return made


def write_instructions(path: Path, rows: Iterable[Instruction]) -> None:
    """Write rows as JSONL, gzipped where the name ends in ``.gz``; the file appears only whole. E112, E113."""
    with written(path) as out:
        for row in rows:
            out.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def read_instructions(data: Data, root: Path, normalise: Callable[[str], str]) -> tuple[list[Instruction], str]:
    """The instruction data that a recipe names, normalised like its pairs, and a line that says what was left out.

    Rows whose English string is in a dev set, whose text is longer than ``max_chars``, and broken ones are left out.

    Raises:
        LlinkError: E210 when a file is missing, E212 when it is damaged, E230 when none of its rows is of use, E233 when
            too many are broken.
    """
    rows: list[Instruction] = []
    dev = held_out(data, root, normalise) if data.instructions else set()
    left_out: Counter[str] = Counter()
    for name in data.instructions:
        before, first_bad = len(rows), ""
        seen, total, path = Pairs(), 0, source_file(name, root)
        for place, line in _lines(path):
            total += 1
            row = None if isinstance(line, Broken) else _row(line)
            if row is None:
                left_out[BROKEN] += 1
                seen.skip(BROKEN, place)
                first_bad = first_bad or place
                continue
            row = Instruction(**{**asdict(row), "foreign": normalise(row.foreign), "english": normalise(row.english)})
            if same_words(row.english) in dev:
                left_out["in a dev set"] += 1
            elif not row.foreign or len(row.foreign) > data.max_chars:
                left_out[f"over {data.max_chars} characters"] += 1
            else:
                rows.append(row)
        if len(rows) == before:
            raise LlinkError(
                "E230", f"{name} holds no instruction data of use ({_counts(left_out)}"
                f"{f'; first: {first_bad}' if first_bad else ''}).",
                "Each line is an object with foreign, english, instruction (or task) and target; "
                "`llink data instruct CODE` makes such a file.",
            )  # fmt: skip
        check_sound(name, seen, total)
    return rows, f"{len(rows)} instructions" + (f"; left out: {_counts(left_out)}" if left_out else "")


def _lines(path: Path) -> Iterator[tuple[str, str | Broken]]:
    with damage_of(path):
        yield from lines(path)


def _counts(left_out: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in left_out.most_common()) or "it is empty"


def _row(line: str) -> Instruction | None:
    """A row out of a line; None where it is broken."""
    try:
        raw = json.loads(line)
        raw.setdefault("task", "other")
        raw.setdefault("instruction", TASKS.get(raw["task"]))
        row = Instruction(**{name: raw[name] for name in Instruction.__dataclass_fields__ if name in raw})
        texts = (row.foreign, row.english, row.instruction, row.target)
        return row if all(isinstance(t, str) and t.strip() and LOST not in t for t in texts) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
