"""The verbatim channel: what a text may not lose, the line of the prompt that carries it, and what training makes of it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llink import LlinkError, plugins
from llink.adapter.prompt import KEEP, TASKS, Prompt, beside, build, channel, fingerprint
from llink.adapter.slots import target_losses
from llink.data.pairs import Pair
from llink.evaluation.exact import holds, invented, sentences
from llink.interfaces import Decoder
from llink.language.values import bounded, kind
from llink.recipe import Verbatim
from llink.store.models import load_decoder
from llink.training.examples import Batches, another, swapped
from llink.training.stage_b import Example, with_values

K = 4


@pytest.fixture(scope="module")
def decoder(models: Callable[[str], str]) -> Decoder:
    return load_decoder(models("chatml_llama"), dtype="float32")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("រោងចក្រនេះផលិតបាន ៣០ MW។", ["30 MW"]),
        ("រោងចក្រនេះផលិតបាន៣០MWនិង ១.៥kW។", ["30 MW", "1.5 kW"]),
        ("ថ្លៃ $៥ ឬ ១២,៥០០ រៀល បញ្ចុះ ១០ %", ["$5", "12,500", "10%"]),
        ("ថ្ងៃទី ១៧/០៥/២០១២ ដល់ 2012-05-20 ម៉ោង ៨:៣០", ["17/05/2012", "2012-05-20", "8:30"]),
        ("ឆ្នាំ ២០០៦-២០០៧", ["2006", "2007"]),
        ("ខ្ញុំឈ្មោះ John Smith ហើយគាត់ឈ្មោះPeter។", ["John Smith", "Peter"]),
        ("សូមមើល https://example.org/a?b=1 ឬសរសេរទៅ a.b@example.com។", ["https://example.org/a?b=1", "a.b@example.com"]),
        ("បើក report_2.pdf ក្នុង /etc/apt ដោយ --force", ["report_2.pdf", "/etc/apt", "--force"]),
        ("លេខកូដ E204 និង UTF-8 និង ERR_TIMEOUT", ["E204", "UTF-8", "ERR_TIMEOUT"]),
        ("ឯកសារ %s មាន %1$d បន្ទាត់ក្នុង {name} និង $HOME", ["%s", "%1$d", "{name}", "$HOME"]),
        ("Firefox ៣.៥ និង Firefox ៤", ["Firefox", "3.5", "4"]),
        # Signs as they are written beside digits of other scripts, and digits that are of no address.
        ("បាន ១٬២៣៤٫៥ និង １２，３４５ និង ១២٪ និង −៥", ["1,234.5", "12,345", "12%", "-5"]),
        ("ទូរស័ព្ទ ០១២ ៣៤៥ ៦៧៨", ["012 345 678"]),
        ("១/២ នៃ ៣ ថ្ងៃទី ១៧.០៥.២០១២", ["1/2", "3", "17.05.2012"]),
        ("សូមមើល www.example.org១២នាក់", ["www.example.org", "12"]),
        ("https://example.org/១២", ["https://example.org/"]),
        ("លេខ ៣ ٣ ３ ৩", ["3"]),
        ("១៥៣,៨២២/២៤០ និង 0.31/0.27", ["153,822", "0.31"]),
        ("១５％，２３，１２ ３，４５６", ["15%", "23", "12", "3,456"]),
        ("﷑﷒ E២០៤", ["E204"]),
        ("ខ្ញុំសុខសប្បាយ។", []),
        ("", []),
        # English, as the English side of training has it: capitals tell names, a sentence's first word does not.
        ("The doctor met Robert Brown in Paris on 3 May.", ["Robert Brown", "Paris", "3", "May"]),
        ("I use LibreOffice. It's free.", ["LibreOffice"]),
        ("Save As Default Template", []),
    ],
)  # fmt: skip
def test_values_of_a_text(text: str, values: list[str]) -> None:
    khmer = plugins.language("km")
    assert khmer.verbatim(khmer.normalise(text)) == values


def test_names_in_own_letters() -> None:
    khmer = plugins.language("km")
    assert khmer.verbatim("ថ្ងៃទី ១៧ ខែឧសភា នៅភ្នំពេញ ឬកំពង់ចាម") == ["17", "May", "Phnom Penh", "Kampong Cham"]
    # Kampot with a further vowel sign is another word.
    assert khmer.verbatim("កំពតា") == []
    assert plugins.language("am").verbatim("በአዲስ አበባ 3") == ["Addis Ababa", "3"]
    assert plugins.language("my").verbatim("မန္တလေး ၃") == ["Mandalay", "3"]


@pytest.mark.parametrize("content", ["[]", "ក: 3", "ក: [", "3: x"])
def test_broken_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    package = tmp_path / f"broken_names_{len(content)}_{content[0].isalpha()}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "names.yaml").write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    broken = dataclasses.replace(plugins.language("km"), package=package.name)
    with pytest.raises(LlinkError, match=r"\[E531\].*names\.yaml") as caught:
        broken.verbatim("x")
    assert "\n" not in str(caught.value)


def test_numerals_of_each_language() -> None:
    assert plugins.language("am").verbatim("፳፻፲፭ እና 30 MW") == ["2015", "30 MW"]
    assert plugins.language("my").verbatim("၃၀ MW နှင့် ၁၂%") == ["30 MW", "12%"]


@pytest.mark.parametrize("code", ["km", "am", "my"])
def test_finds_the_values_of_template_sentences(code: str) -> None:
    language = plugins.language(code)
    made = sentences(language)
    lost = [case for case in made if case.values[0][1] not in language.verbatim(case.foreign)]
    # All that are written as in English, and most names in the language's own letters.
    assert not any(holds(case.values[0][1], language.ascii_digits(case.foreign)) for case in lost)
    assert len(lost) < 10


def test_channel_is_a_line_within_its_budget(decoder: Decoder) -> None:
    def said(values: list[str], tokens: int) -> str:
        return decoder.detokenize(channel(decoder, values, tokens))

    assert said(["30 MW", "Aspirin"], 100) == "Keep: 30 MW; Aspirin"
    assert said([], 100) == "Keep: none"
    assert channel(decoder, ["30 MW"], 0) == []
    short = len(decoder.tokenize(f"{KEEP}7; 8")) - len(decoder.tokenize(KEEP))
    assert said(["7", "https://example.org/" + "a" * 90, "8", "9"], short) == "Keep: 7; 8"
    forged = channel(decoder, ["<|im_end|>"], 100)
    assert not {decoder.end_of_turn, *decoder.stop_ids} & set(forged)


def test_prompt_with_the_channel(decoder: Decoder) -> None:
    line = channel(decoder, ["30 MW"], 20)
    plain = build(decoder, TASKS["translate"], slots=K)
    whole = build(decoder, TASKS["translate"], slots=K, kept=[line])
    assert whole == beside(plain, line)
    assert whole.prefix == plain.prefix
    assert whole.suffix == (*line, *plain.suffix)
    two = build(decoder, TASKS["translate"], slots=K, passages=2, kept=[line, channel(decoder, [], 20)])
    assert two.slots == 2 * K
    assert len(two.ids) == len(plain.ids) + K + 1 + len(line) + len(channel(decoder, [], 20))
    assert fingerprint(decoder, K) != fingerprint(decoder, K, 20) == fingerprint(decoder, K, 48)


def random_slots(rows: int) -> Tensor:
    return torch.randn(rows, K, 32, generator=torch.Generator().manual_seed(0))


def test_rows_with_channels_of_their_own_give_what_each_gives_alone(decoder: Decoder) -> None:
    plain = build(decoder, TASKS["translate"], slots=K)
    found: list[list[str]] = [["30 MW", "Aspirin", "https://example.org"], [], ["7"]]
    prompts = [plain, *(beside(plain, channel(decoder, values, 60)) for values in found)]
    targets = [decoder.tokenize(t) for t in ("I am fine.", "It makes 30 MW at https://example.org.", "", "Seven is 7.")]
    slots = random_slots(4).requires_grad_()
    together = target_losses(decoder, prompts, slots, targets)
    [gradient] = torch.autograd.grad(together.sum(), slots)
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        own = slots[row : row + 1]
        alone = target_losses(decoder, prompt, own, [target])
        torch.testing.assert_close(together[row, : len(target) + 1], alone[0], atol=1e-5, rtol=1e-5)
        assert not together[row, len(target) + 1 :].any()
        [expected] = torch.autograd.grad(alone.sum(), slots)
        torch.testing.assert_close(gradient[row], expected[row], atol=1e-4, rtol=1e-4)
    assert (target_losses(decoder, prompts[1], slots, targets) - together).abs().max() > 0.01


def examples() -> list[Example]:
    rows = [("ថ្លៃ ៥០០ ដុល្លារ", "It costs 500 dollars.", ("500",)), ("ខ្ញុំសុខសប្បាយ។", "I am fine.", ())]
    return [Example(text, "translate", english, english, values) for text, english, values in rows]


def drawn(decoder: Decoder, steps: int = 60, seed: int = 1, **settings: Any) -> list[tuple[Prompt, str]]:
    made = Batches(decoder, examples(), Verbatim(**settings), longest=64, seed=seed)
    found = []
    for step in range(steps):
        _, [prompt, _], [target, _] = made([0, 1], step, K)
        found.append((prompt, decoder.detokenize(target)))
    return found


def test_dropout_and_swap_in_training(decoder: Decoder) -> None:
    plain = build(decoder, TASKS["translate"], slots=K)
    true = beside(plain, channel(decoder, ["500"], 20))
    assert {p for p, _ in drawn(decoder, tokens=0, dropout=0.0)} == {plain}
    assert {p for p, _ in drawn(decoder, tokens=20, dropout=1.0)} == {plain}
    assert set(drawn(decoder, tokens=20, dropout=0.0, swap=0.0)) == {(true, "It costs 500 dollars.")}
    assert 0.2 < sum(p == plain for p, _ in drawn(decoder, tokens=20, dropout=0.4)) / 60 < 0.6
    other = drawn(decoder, tokens=20, dropout=0.0, swap=1.0)
    assert len({target for _, target in other}) > 20
    for prompt, target in other:
        number = target.removeprefix("It costs ").removesuffix(" dollars.")
        assert number.isdigit()
        assert prompt == beside(plain, channel(decoder, [number], 20))
    assert drawn(decoder, tokens=20) == drawn(decoder, tokens=20) != drawn(decoder, tokens=20, seed=2)


def test_examples_with_values_are_taken_more_often() -> None:
    bare = [dataclasses.replace(e, values=None) for e in examples()] * 5
    known = with_values(bare, plugins.language("km"))
    assert known == examples() * 5
    more = with_values(bare, plugins.language("km"), share=0.8)
    assert more[:10] == known
    assert sum(e.values == ("500",) for e in more) / len(more) == 0.8


def test_swapped_values_are_of_the_same_kind_on_both_sides() -> None:
    target = "John Smith pays $500 on 2012-05-17 at https://example.org, see report.pdf, E204, 1 file of %s, 5 km."
    values = (*plugins.language("km").verbatim(target), "Nobody")
    example = Example("x", "translate", target, f"{target} Nobody", values)
    pick = random.Random(0)
    for _ in range(50):
        made = swapped(example, {"name": ["Peter", "Firefox"]}, pick)
        new, text = made.values or (), made.target
        assert made.english == f"{text} Nobody"
        assert [kind(v) for v in new] == [kind(v) for v in values]
        assert all(bounded(v).search(text) for v in new if v != "Nobody")
        assert text.isascii()
        assert new[-1] == "Nobody"
        assert {"1", "%s"} <= set(new)
        assert sum(v in values for v in new) <= 5
    assert {another("30 MW", {}, pick).split(" ")[1] for _ in range(9)} == {"MW"}


def test_value_is_not_found_within_a_longer_one() -> None:
    assert bounded("30 MW").search("30MW.")
    assert not any(bounded("30").search(text) for text in ("300", "1.30", "30.5", "E30", "30MW"))


@pytest.mark.parametrize(
    ("answer", "made_up"),
    [
        ("It makes 30 MW.", []),
        ("It makes 30 kW at https://example.net.", ["https://example.net", "30 kW"]),
        ("It makes 12,500 of them.", []),
        ("E205 and Peter", ["E205"]),
        ("The 3rd of 2012, 30-page", ["3rd", "2012"]),
        ("A 204-page error of 30 MW", ["204-page"]),
        ("In 2012 at example.org", ["example.org", "2012"]),
        ("On the 17th of May 2012", []),
        ("On 17/05/2012, or 17 05 2012", ["17/05/2012"]),
        ("On 18 May 2012", ["18", "2012"]),
        ("See https://example.org", ["https://example.org"]),
        ("See example.org/a, as 30MW", []),
        ("", []),
    ],
)
def test_invented_values(answer: str, made_up: list[str]) -> None:
    pair = Pair(
        "On 2012-05-17 the plant makes 30 MW, error E204, see https://example.org/a.",
        "រោងចក្រ ៣០ MW និង ១២៥០០ E204",
        "",
        "",
    )
    assert invented(answer, pair, plugins.language("km")) == made_up
