"""lm-evaluation-harness on an LLINK engine: ``llink`` as ``--model``, the foreign parts of a prompt read through slots.

    python -m llink_plugins.lm_eval run --model llink --model_args language=km --tasks belebele_khm_Khmr

or, from Python, ``import llink_plugins.lm_eval`` and then ``lm_eval.simple_evaluate(model="llink", …)``. Whatever the task
puts before its answer becomes the user's turn of a chat, the answer the assistant's.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from llink.errors import LlinkError
from llink.interfaces import Language

try:
    import lm_eval.models  # noqa: F401 (the harness registers its own models only while there is none)
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    missing = LlinkError(
        "E529", f"The lm-evaluation-harness is not installed ({error.name} is missing).", 'pip install "llink[lm-eval]"'
    )
    if __name__ == "__main__":
        sys.exit(f"llink: {missing}")
    raise missing from error

import torch
from torch import Tensor

from llink import plugins
from llink.adapter.prompt import SYSTEM, converse
from llink.adapter.scoring import answer_losses
from llink.adapter.slots import filled, generate, in_batches, pad_left
from llink.language.text import script_counts
from llink.progress import track
from llink.serving.chat import Foreign
from llink.serving.engine import Engine

NEW_TOKENS = 128


@register_model("llink")
class LlinkLM(LM):
    """An engine with one language adapter, or the bare decoder beside it.

    Args:
        language: code or name, or ``CODE@NAME``; text in its script goes through slots, a sentence in K of them.
        adapter: folder; without it the shipped or installed one.
        encoder, decoder: registry names or folders; the registry's defaults where not given.
        raw: the untouched decoder reads the foreign text as its own tokens: the baseline.
        batch_size: prompts that the decoder reads at once.
        dtype, device: as for ``Engine.load``.
    """

    def __init__(
        self,
        language: str,
        adapter: str | None = None,
        encoder: str | None = None,
        decoder: str | None = None,
        raw: bool = False,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.chosen, self.raw = plugins.select(language), raw
        self.language = self.chosen.language
        self.batch = int(batch_size) if str(batch_size).isdigit() else 8
        self.engine = Engine.load(encoder, decoder, device=device or "auto", dtype=dtype)
        if not raw:
            self.engine.add(str(self.chosen), adapter)

    @property
    def tokenizer_name(self) -> str:
        """What requests are cached under."""
        return str(self.engine.decoder.name)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log probability of each answer, and whether it is what the decoder would say."""
        tokenize = self.engine.decoder.tokenize
        # The space before an answer belongs to running text; a turn begins without.
        answers = [tokenize(request.args[1].lstrip() or request.args[1]) for request in requests]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for rows, prompts in self._batches(requests, [i for i, answer in enumerate(answers) if answer]):
            losses, greedy = answer_losses(self.engine.decoder, prompts, [answers[i] for i in rows])
            for i, loss, chosen in zip(rows, losses.sum(1).tolist(), greedy.all(1).tolist(), strict=True):
                found[i] = (-loss, chosen)
                self.cache_hook.add_partial("loglikelihood", requests[i].args, found[i])
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Each answer up to the first of the task's stop strings."""
        found = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(i)
        for group in groups.values():
            options = dict(requests[group[0]].args[1])
            stops = options.pop("until", None) or []
            stops = [stops] if isinstance(stops, str) else list(stops)
            limit = int(options.pop("max_gen_toks", NEW_TOKENS))
            if not options.get("do_sample"):
                options = {}  # a temperature of 0 and its like: greedy is the default
            for rows, prompts in self._batches(requests, group):
                embeds, mask = pad_left(prompts)
                for i, text in zip(rows, generate(self.engine.decoder, embeds, mask, limit, **options), strict=True):
                    ends = [text.find(stop) for stop in stops if stop]
                    found[i] = text[: min((end for end in ends if end >= 0), default=len(text))]
                    self.cache_hook.add_partial("generate_until", requests[i].args, found[i])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Not offered: E529."""
        raise LlinkError(
            "E529", "An LLINK engine answers about texts; it has no perplexity of running text.",
            "Choose tasks with choices or generated answers.",
        )  # fmt: skip

    def _batches(self, requests: Sequence[Any], chosen: Sequence[int]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Batches of requests of like length: which, and their prompts as embeddings ``[P, D]``; the LoRA is on meanwhile."""
        order = sorted(chosen, key=lambda i: len(requests[i].args[0]))
        code = None if self.raw else str(self.chosen)
        with track("Requests", total=len(order)) as bar:
            for part in in_batches(len(order), self.batch):
                with torch.inference_mode():
                    prompts = [self._prompt(requests[i].args[0]) for i in order[part]]
                    with self.engine.using(code):
                        yield order[part], prompts
                bar(len(prompts))

    def _prompt(self, context: str) -> Tensor:
        decoder, ids, slots = self.engine.decoder, list[int](), list[Tensor]()
        for part in parts(context, self.language):
            if isinstance(part, str) or self.raw:
                ids += decoder.tokenize(part if isinstance(part, str) else part.text)
                continue
            reader, resident = self.engine.reader, self.engine.resident(self.chosen)
            pieces = reader.whole(self._pieces(part.text), resident)
            ids += reader.subject(pieces, resident)
            slots += reader.slots(pieces, resident)
        prompt = converse(decoder, [("system", decoder.tokenize(SYSTEM)), ("user", ids)])
        device = decoder.embedding_matrix().device
        return filled(decoder, prompt, torch.cat(slots).to(device) if slots else None, device)

    def _pieces(self, text: str) -> list[str]:
        """A passage by its sentences; what is longer than the encoder reads is cut at a space, or anywhere."""
        encoder, todo, done = self.engine.encoder, self.language.sentences(text), list[str]()
        while todo:
            piece = todo.pop(0)
            if encoder.count_tokens([self.language.normalise(piece)])[0] <= encoder.max_tokens:
                done.append(piece)
                continue
            half = len(piece) // 2
            space = piece.find(" ", half)
            cut = space if 0 < space < len(piece) - 1 else half
            todo = [piece[:cut], piece[cut:], *todo]
        return done


def parts(text: str, language: Language) -> list[str | Foreign]:
    """A prompt as runs of English and of foreign text; joined they are the prompt again.

    A line that is mostly foreign from its first foreign letter to its last is one run, with the Latin names in it. In
    another, each stretch without a letter of another script is.
    """
    found: list[str | Foreign] = []
    for line in text.splitlines(keepends=True):
        done = 0
        for start, end in _runs(line, language):
            found += [line[done:start], Foreign(line[start:end], language.code)]
            done = end
        found.append(line[done:])
    merged: list[str | Foreign] = []
    for part in found:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part:
            merged.append(part)
    return merged


def _runs(line: str, language: Language) -> list[tuple[int, int]]:
    """Where the foreign runs of a line begin and end."""
    own = [i for i, char in enumerate(line) if unicodedata.name(char, "").split(" ")[0] in language.scripts]
    if not own:
        return []
    cuts = [0]
    if not _foreign(line[own[0] : own[-1] + 1], language):
        cuts += [n for n, (a, b) in enumerate(pairwise(own), 1) if script_counts(line[a + 1 : b])]
    runs = []
    for first, last in pairwise([*cuts, len(own)]):
        end = own[last - 1] + 1
        while end < len(line) and line[end] in language.sentence_ends:
            end += 1
        runs.append((own[first], end))
    return runs


def _foreign(text: str, language: Language) -> bool:
    counts = script_counts(text)
    return 2 * sum(counts[script] for script in language.scripts) >= counts.total()


def main() -> None:
    """The harness's own command line, with ``llink`` among its models."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except LlinkError as error:
        sys.exit(f"llink: {error}")


if __name__ == "__main__":
    main()
