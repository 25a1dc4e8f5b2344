"""Constrained decoding: which digits may come next, for every token of decoders with different vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny
import torch

from llink.adapter.slots import generate_ids
from llink.interfaces import Decoder
from llink.language.unicode import ascii_digits
from llink.serving.constrained import KnownDigits, known, may_follow
from llink.store.models import load_decoder


def spells(answer: str, values: Sequence[str]) -> bool:
    """Whether each digit of an answer may stand where it does."""
    forms, answer = known(values), ascii_digits(answer)
    return all(
        any(rest.startswith(c) for rest in may_follow(answer[:i], forms))
        for i, c in enumerate(answer)
        if c in "0123456789"
    )


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        (["E204"], "The code is E204."),
        (["E204"], "(E204)"),
        (["abc123"], "Abc123 is the password."),
        (["30 MW"], "It makes 30 MW, or 30MW."),
        (["3"], "The 3rd, a 3-day trip."),
        (["3", "5"], "3-5 days"),
        (["1.000.000"], "1,000,000 riel, 1000000"),
        (["1234"], "1,234 of them"),
        (["1,5 kg"], "1.5 kg"),
        (["$2.50"], "$2.50"),
        (["-5 °C"], "-5 °C"),
        (["01/12/1990"], "on 1 December 1990, 01/12/1990"),
        (["15:30"], "at 15:30, 3:30 pm, 15 h 30"),
        (["2020-05-07"], "7 May 2020"),
        (["https://example.org/v2/a1"], "see example.org/v2/a1 or https://example.org/v2"),
        (["%1"], "Delete “%1”?"),
        (["Office 365"], "Install Office 365."),
        ([], "No number at all."),
        (["12 345"], "12,345 riel, 12345, or 12 and 345"),
        (["1/2"], "1/2"),
        (["៣០"], "30"),  # of a plugin that leaves digits as they are
        (["30"], "៣០ or ３０"),
    ],
)
def test_usual_ways_of_writing_a_value(values: list[str], answer: str) -> None:
    assert spells(answer, values)


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        (["E204"], "The code is 204."),
        (["E204"], "XE204"),
        (["30 MW"], "1.5 kW"),
        (["30"], "300"),
        (["30"], "130"),
        (["30"], "30.5"),
        (["12.5"], "2.5"),
        (["01/12/1990"], "on 01/00"),
        (["09:45"], "21:45"),
        (["2020-05-17T10:30"], "2008"),
        (["Phnom Penh"], "7 people"),
        ([], "COVID-19"),
        (["30"], "៤"),
        (["30"], "３１"),
        ([], "٣"),
    ],
)
def test_what_no_value_spells(values: list[str], answer: str) -> None:
    assert not spells(answer, values)


@pytest.fixture(scope="module", params=[tiny.chatml_llama, tiny.llama3, tiny.qwen2], ids=lambda make: make.__name__)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    make: Callable[[Path], Path] = request.param
    return load_decoder(str(make(tmp_path_factory.mktemp(make.__name__))), device="cpu", dtype="float32")


@pytest.mark.parametrize("said", ["", "The code is", "The code is ", "It makes 3", "It makes 30", "on 01/1"])
def test_every_token_of_a_vocabulary(decoder: Decoder, said: str) -> None:
    values = ["30 MW", "E204", "01/12/1990"]
    ids = decoder.tokenize(said) if said else []
    size = len(decoder.embedding_matrix())
    scores = KnownDigits(decoder, [known(values), None])(torch.tensor([ids, ids]).long(), torch.zeros(2, size))
    assert torch.isfinite(scores[1]).all()
    for i, score in enumerate(scores[0].tolist()):
        text = decoder.detokenize([*ids, i, *decoder.tokenize("z")])
        twice = said.endswith(" ") and text[len(said) : len(said) + 1].isspace()
        assert (score == 0.0) == (spells(text, values) and not twice), (said, text)


@pytest.mark.parametrize("digit", ["៣", "４", "٣"])
def test_a_digit_byte_by_byte(decoder: Decoder, digit: str) -> None:
    """A digit of another script is ruled out at its last byte, where its number is not in the text."""
    ids = decoder.tokenize(f"It is {digit}")
    assert decoder.detokenize(ids).endswith(digit)
    size = len(decoder.embedding_matrix())

    def allowed(values: list[str]) -> bool:
        return all(
            float(
                KnownDigits(decoder, [known(values)])(torch.tensor([ids[:n]]).long(), torch.zeros(1, size))[0, ids[n]]
            )
            == 0
            for n in range(1, len(ids))
        )

    assert allowed(["3", "4"])
    assert not allowed(["5"])


def test_rows_of_a_batch_have_their_own(decoder: Decoder) -> None:
    """Random weights, pushed towards digits."""
    digits = sorted({i for digit in "0123456789" for i in decoder.tokenize(digit)})
    embeds = decoder.embed(torch.tensor([decoder.tokenize("What is the number here?")] * 3))
    rows = [None, known(["1990"]), known([])]
    for beams in (1, 2):
        options = {"sequence_bias": {(i,): 50.0 for i in digits}, "num_beams": beams}
        free = generate_ids(decoder, embeds[:1], None, 12, **options)
        ruled = generate_ids(decoder, embeds, None, 12, logits_processor=[KnownDigits(decoder, rows)], **options)
        free_text, known_text, none_text = map(decoder.detokenize, ruled)
        assert ruled[:1] == free
        assert any(c.isdigit() for c in free_text)
        assert spells(known_text, ["1990"])
        assert "1990" in known_text
        assert not any(c in "0123456789" for c in none_text)
