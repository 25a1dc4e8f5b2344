"""Self-distilled instructions: what the frozen decoder answers to the English text, the slots must lead it to.

No larger model is needed for targets: "as good as if it had read English" is the goal itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from llink.interfaces import Decoder
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
    log = folder / f"{decoder.fingerprint[:16]}-{max_new_tokens}.jsonl"
    known = _read(log)
    jobs = [(i, DISTILLED_TASKS[i % len(DISTILLED_TASKS)]) for i in range(len(english))]
    missing = sorted((j for j in jobs if _key(english[j[0]], j[1]) not in known), key=lambda j: len(english[j[0]]))
    with track("Self-distillation", total=len(missing)) as bar, log.open("a", encoding="utf-8") as lines:
        for part in in_batches(len(missing), 16):
            batch = missing[part]
            prompts = [build(decoder, TASKS[task], text=english[i]) for i, task in batch]
            answers = answer_prompts(decoder, prompts, max_new_tokens)
            for (i, task), answer in zip(batch, answers, strict=True):
                key = _key(english[i], task)
                known[key] = answer
                lines.write(json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
            bar(len(batch))
    examples = []
    for i, task in jobs:
        answer = known[_key(english[i], task)]
        if 0 < len(decoder.tokenize(answer)) < max_new_tokens - 1:
            examples.append((i, task, answer))
    return examples


def _key(text: str, task: str) -> str:
    return hashlib.sha256(f"{task}\n{TASKS[task]}\n{text}".encode()).hexdigest()[:32]


def _read(log: Path) -> dict[str, str]:
    known: dict[str, str] = {}
    if log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                known[row["key"]] = row["answer"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # the line that a kill cut off
    return known
