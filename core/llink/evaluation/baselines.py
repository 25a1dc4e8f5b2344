"""What one would have without LLINK: answers of the same decoder, kept so that no run asks twice.

``raw`` reads the foreign text, ``english`` its English (the ceiling), ``direct-lora`` the foreign text through a LoRA
that was trained on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llink.adapter.prompt import TASKS, build
from llink.adapter.slots import answer_prompts, in_batches
from llink.data.kept import Kept
from llink.data.pairs import Pair
from llink.evaluation.base import ANSWER_TOKENS, Subject
from llink.home import ensure_folder, home
from llink.progress import track

READERS = ("raw", "english", "direct-lora")
"""Those that answer."""
BATCH = 16


def baseline_answers(
    subject: Subject, name: str, rows: Sequence[Pair], task: str = "translate", tokens: int = ANSWER_TOKENS
) -> list[str]:
    """What the decoder answers when it reads the text itself.

    Args:
        name: one of ``READERS``.
        task: a task of ``llink.adapter.prompt``.
        tokens: of an answer at most.

    Raises:
        LlinkError: E527 when the ``direct-lora`` of the subject is none, or one for another decoder.
    """
    texts = [p.english if name == "english" else p.foreign for p in rows]
    decoder = subject.engine.decoder
    known = Kept(ensure_folder(home() / "answers") / f"{decoder.fingerprint[:16]}-{tokens}.jsonl")
    made_by = lora_hash(subject.lora) if name == "direct-lora" else ""
    keys = {text: _key(made_by, text, task) for text in texts}
    # Texts of like length go together: less padding.
    missing = sorted((text for text, key in keys.items() if key not in known), key=len)
    with track(f"Baseline {name}", total=len(missing)) as bar:
        for part in in_batches(len(missing), BATCH):
            prompts = [build(decoder, TASKS[task], text=text) for text in missing[part]]
            with reading(subject, name):
                answers = answer_prompts(decoder, prompts, tokens)
            known.keep({keys[text]: answer for text, answer in zip(missing[part], answers, strict=True)})
            bar(len(answers))
    return [known[keys[text]] for text in texts]


@contextmanager
def reading(subject: Subject, name: str) -> Iterator[None]:
    """Within the block the subject's decoder is that of a baseline: bare, or with the LoRA of ``direct-lora``."""
    with subject.engine.using(None):
        if name != "direct-lora" or subject.lora is None:
            yield
            return

        from llink.training.direct_lora import carrying

        with carrying(subject.engine.decoder, subject.lora):
            yield


def lora_hash(folder: Path | None) -> str:
    """What tells one ``direct-lora`` from another; empty for none."""
    weights = sorted(folder.glob("*.safetensors")) if folder else []
    return hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest() if folder else ""


def readers(subject: Subject) -> list[str]:
    """The baselines among ``subject.against`` that answer."""
    return [name for name in subject.against if name in READERS]


def _key(made_by: str, text: str, task: str) -> str:
    return hashlib.sha256(f"{made_by}{TASKS[task]}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
