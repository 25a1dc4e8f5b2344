"""Self-distilled instructions: what the frozen decoder answers to the English text, the slots must lead it to.

No larger model is needed for targets: "as good as if it had read English" is the goal itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from llink.interfaces import Decoder
from llink.kept import Kept
from llink.progress import track
from llink.prompt import TASKS, build
from llink.reading import answer_prompts, in_batches

DISTILLED_TASKS = tuple(task for task in TASKS if task != "translate")


def distil(
    decoder: Decoder, english: Sequence[str], folder: Path, max_new_tokens: int = 48
) -> list[tuple[int, str, str]]:
    """Answers of the frozen decoder to the tasks other than translation, text i getting task i modulo their number.

    Args:
        english: texts, each answered for one task.
        folder: finished answers are kept here, one file a text, so that a killed run goes on.
        max_new_tokens: longer answers are left out: a cut-off answer teaches rambling.

    Returns:
        (index of the text, task, answer); empty and unfinished answers are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = Kept(folder / f"{decoder.fingerprint[:16]}-{max_new_tokens}.jsonl")
    jobs = [(i, DISTILLED_TASKS[i % len(DISTILLED_TASKS)]) for i in range(len(english))]
    missing = sorted((j for j in jobs if _key(english[j[0]], j[1]) not in known), key=lambda j: len(english[j[0]]))
    with track("Self-distillation", total=len(missing)) as bar:
        for part in in_batches(len(missing), 16):
            batch = missing[part]
            prompts = [build(decoder, TASKS[task], text=english[i]) for i, task in batch]
            answers = answer_prompts(decoder, prompts, max_new_tokens)
            known.keep({_key(english[i], task): answer for (i, task), answer in zip(batch, answers, strict=True)})
            bar(len(batch))
    examples = []
    for i, task in jobs:
        answer = known[_key(english[i], task)]
        if 0 < len(decoder.tokenize(answer)) < max_new_tokens - 1:
            examples.append((i, task, answer))
    return examples


def _key(text: str, task: str) -> str:
    return hashlib.sha256(f"{task}\n{TASKS[task]}\n{text}".encode()).hexdigest()[:32]
