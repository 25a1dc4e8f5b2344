"""The guard against loops in decoding: what it rules out, what it leaves, and that a batch changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llink import Engine
from llink.interfaces import Decoder
from llink.serving.loops import LONGEST, TIMES, TIMES_MARKS, LoopGuard
from llink.store.models import load_decoder
from llink_khmer import SAMPLES

KHMER = [s.foreign for s in SAMPLES]


@pytest.fixture(scope="module")
def decoder(decoder_folder: str) -> Decoder:
    return load_decoder(decoder_folder, dtype="float32")


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, tiny_adapter: Path) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", tiny_adapter)
    return engine


def ruled_out(decoder: Decoder, ids: list[int]) -> set[int]:
    return set(LoopGuard(decoder, [True]).ruled_out(ids))


def letters(decoder: Decoder) -> list[int]:
    return [i for i in range(len(decoder.embedding_matrix())) if decoder.detokenize([i]).isalpha()]


@pytest.mark.parametrize("length", range(1, LONGEST + 2))
def test_a_phrase_once_too_often(decoder: Decoder, length: int) -> None:
    phrase = letters(decoder)[:length]
    times = 3 if length <= 8 else 2
    before = letters(decoder)[-5:]
    assert ruled_out(decoder, before + phrase * (times - 1)) == set()
    assert ruled_out(decoder, before + phrase * times) == ({phrase[0]} if length <= LONGEST else set())


def test_numbers_and_marks_may_repeat_longer(decoder: Decoder) -> None:
    for text in ("0", "-", ". "):
        phrase = decoder.tokenize(text)
        assert ruled_out(decoder, phrase * (TIMES_MARKS - 1)) == set()
        assert phrase[0] in ruled_out(decoder, phrase * TIMES_MARKS)


def test_the_end_of_the_turn_is_never_ruled_out(decoder: Decoder) -> None:
    assert ruled_out(decoder, [decoder.end_of_turn] * 40) == set()


def test_only_guarded_rows_are_touched(decoder: Decoder) -> None:
    word = letters(decoder)[0]
    ids = torch.tensor([[word] * 5] * 4)
    scores = torch.zeros(4, len(decoder.embedding_matrix()))
    guarded = LoopGuard(decoder, [True, False])(ids, scores)  # two beams a row
    assert torch.isinf(guarded).sum(1).tolist() == [1, 1, 0, 0]
    assert torch.isinf(guarded[:, word]).tolist() == [True, True, False, False]
    assert torch.isfinite(scores).all()


def test_a_decoder_that_loops_is_stopped(engine: Engine) -> None:
    """One word pushed so that nothing else would be said."""
    word = letters(engine.decoder)[0]
    options = {"max_new_tokens": 24, "sequence_bias": {(word,): 50.0}}

    def longest_run(answer: str) -> int:
        ids, most, run = engine.decoder.tokenize(answer), 0, 0
        for i in ids:
            run = run + 1 if i == word else 0
            most = max(most, run)
        return most

    free = engine.generate(KHMER[0], "km", loop_guard=False, **options)
    held = engine.generate(KHMER[0], "km", **options)
    assert longest_run(free) > TIMES >= longest_run(held) > 0
    assert "".join(engine.stream(KHMER[0], "km", **options)) == held
    assert engine.chat([{"role": "user", "content": "Hello"}], **options) != engine.chat(
        [{"role": "user", "content": "Hello"}], loop_guard=False, **options
    )


def test_a_batch_says_what_each_says_alone(engine: Engine) -> None:
    """Random weights loop a lot, so the guard has work to do in many rows."""
    texts = KHMER[:10]
    alone = [engine.generate(text, "km", max_new_tokens=40) for text in texts]
    assert engine.generate(texts, "km", max_new_tokens=40) == alone
    assert engine.generate(texts, "km", max_new_tokens=40, loop_guard=False) != alone
