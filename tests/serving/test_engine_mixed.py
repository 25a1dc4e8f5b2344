"""Batches of several languages: each row its own bridge and LoRA, the same answers as one at a time."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from variants import GREETING, variant

from llink import Engine, LlinkError
from llink.store.models import load_decoder
from llink_khmer import SAMPLES

KHMER = [s.foreign for s in SAMPLES]
CODES = ("km", "am", "my", None)
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, tiny_adapters: dict[str, Path]) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    for code, folder in tiny_adapters.items():
        engine.add(code, folder)
    return engine


def rows(count: int) -> tuple[list[str], list[str | None]]:
    """Texts of all lengths in four kinds of row, in no order."""
    codes = random.Random(7).choices(CODES, k=count)
    english = [s.english for s in SAMPLES]
    return [GREETING[c] + KHMER[i % 30] if c else english[i % 30] for i, c in enumerate(codes)], codes


def test_mixed_is_one_at_a_time(engine: Engine) -> None:
    texts, codes = rows(40)
    assert set(codes) == set(CODES)
    alone = [engine.generate(text, code, **SHORT) for text, code in zip(texts, codes, strict=True)]
    assert len(set(alone)) > 10  # or the order would not show
    before = engine.stats()["steps"]
    assert engine.generate(texts, language=codes, **SHORT) == alone
    assert engine.stats()["steps"] < before + 40 * SHORT["max_new_tokens"] / 5
    assert engine.generate(tuple(texts), language=tuple(codes), **SHORT) == alone


def test_each_language_has_its_own_adapter(engine: Engine) -> None:
    """The same text says something else through each, and the answers do not change places."""
    text = "ខ្មែរ ሰላም မြန်မာ"
    alone = {code: engine.generate(text, code, **SHORT) for code in ("km", "am", "my")}
    assert len(set(alone.values())) == 3
    order = ["my", "km", "am", "my", "am", "km"]
    assert engine.generate([text] * 6, language=order, **SHORT) == [alone[code] for code in order]


@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"num_beams": 2, "length_penalty": 0.5}, {"no_repeat_ngram_size": 2}]
)
def test_options_that_mixed_rows_share(engine: Engine, options: dict[str, Any]) -> None:
    texts, codes = rows(9)
    alone = [engine.generate(text, code, **SHORT, **options) for text, code in zip(texts, codes, strict=True)]
    assert engine.generate(texts, language=codes, **SHORT, **options) == alone


def test_auto_goes_text_by_text(engine: Engine) -> None:
    texts = [KHMER[0], "ሰላም ነው", "မင်္ဂလာပါ", KHMER[1]]
    expected = [engine.generate(t, c, **SHORT) for t, c in zip(texts, ("km", "am", "my", "km"), strict=True)]
    assert engine.generate(texts, **SHORT) == expected
    assert engine.generate(texts, language="auto", **SHORT) == expected
    with engine.using("my"):
        assert (
            engine.generate(
                texts, language=["auto" if i == 2 else c for i, c in enumerate(("km", "am", "", "km"))], **SHORT
            )
            == expected
        )


def test_instructions_and_long_texts_in_one_batch(engine: Engine) -> None:
    long = "។ ".join(KHMER * 2)
    texts = [long, "ሰላም " + KHMER[0], f"{KHMER[1]}\n{KHMER[2]}"]
    for wanted in ({"task": "translate"}, {"task": "title"}, {"instruction": "Summarise the text in one sentence."}):
        alone = [
            engine.generate(text, code, **wanted, **SHORT) for text, code in zip(texts, ("km", "am", "km"), strict=True)
        ]
        assert engine.generate(texts, language=["km", "am", "km"], **wanted, **SHORT) == alone
    with pytest.raises(LlinkError, match=r"\[E511\].*passages of 564 slots in all.*would be left out"):
        engine.generate(("ភាសាខ្មែរ" * 15 + "។") * 141, "km", task="qa", **SHORT)


def test_as_many_languages_as_texts(engine: Engine) -> None:
    with pytest.raises(LlinkError, match=r"\[E516\] There are 2 texts and 3 languages"):
        engine.generate(KHMER[:2], language=["km", "km", None])


def test_bare_rows_are_bit_for_bit_untouched(engine: Engine, decoder_folder: str) -> None:
    fresh, ids = load_decoder(decoder_folder, dtype="float32"), torch.arange(4, 68).view(4, 16)

    def hashed(decoder: Any) -> str:
        with torch.inference_mode():
            return hashlib.sha256(decoder.model(ids).logits.numpy().tobytes()).hexdigest()

    wanted = hashed(fresh)
    assert hashed(engine.decoder) == wanted
    lora = engine.resident("km").lora
    for code in ("km", "am", "my"):
        with engine.using(code):
            assert hashed(engine.decoder) != wanted
        assert hashed(engine.decoder) == wanted
    engine.generate(*rows(12)[:1], language=rows(12)[1], **SHORT)
    assert hashed(engine.decoder) == wanted
    with engine._switch.using([None, lora, None, lora]), torch.inference_mode():
        mixed = engine.decoder.model(ids).logits
    with torch.inference_mode():
        bare = fresh.model(ids).logits
    assert torch.equal(mixed[::2], bare[::2])
    assert not torch.equal(mixed[1::2], bare[1::2])


def test_ten_questions_about_one_text_encode_it_once(
    encoder_folder: str, decoder_folder: str, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", tiny_adapters["km"])
    for number in range(10):
        engine.generate(KHMER[0], "km", instruction=f"Question {number}?", **SHORT)
    stats = engine.stats()
    assert (stats["features"]["misses"], stats["slots"]["misses"], stats["slots"]["hits"]) == (1, 1, 9)
    # The encoder's part is the same for another adapter, the slots are not.
    slots = engine.slots(KHMER[:1], "km")
    engine.replace("km", variant(tiny_adapters["km"], tmp_path / "other", "km", 1))
    assert not torch.equal(engine.slots(KHMER[:1], "km"), slots)
    assert engine.stats()["features"]["misses"] == 1
    # Within a budget.
    small = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32", cache_bytes=4000)
    small.add("km", tiny_adapters["km"])
    assert small.generate(KHMER, "km", **SHORT) == small.generate(KHMER, "km", **SHORT)
    assert all(0 < small.stats()[cache]["bytes"] <= 4000 for cache in ("slots", "features"))


def test_rank_embed_and_slots(engine: Engine) -> None:
    english = [s.english for s in SAMPLES]
    ranked = engine.rank(KHMER[3], english, "km")
    assert sorted(i for i, _ in ranked) == list(range(len(english)))
    assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    # Trained on these pairs, the right one is nearer than chance would have it.
    places = [next(n for n, (i, _) in enumerate(engine.rank(KHMER[k], english, "km")) if i == k) for k in range(20)]
    assert sum(places) / 20 < 0.45 * len(english)
    assert engine.rank(KHMER[0], [], "km") == []
    with engine.using("am"):  # whose LoRA has no part in it
        assert engine.rank(KHMER[3], english, "km") == ranked
    assert engine.slots([], "km").shape == (0, 4, 32)
    assert engine.embed([], "km").shape == (0, 32)
    for ask in (engine.slots, engine.embed):
        with pytest.raises(LlinkError, match=r"\[E510\]"):
            ask([KHMER[0], " "], "km")
        with pytest.raises(LlinkError, match=r"\[E511\].*encoder tokens"):
            ask(["ភាសា ខ្មែរ " * 200], "km")
    engine.embed(KHMER[:2], "km").requires_grad_(True)  # an ordinary tensor
