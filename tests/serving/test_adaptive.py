"""Adaptive K and longer texts: how many slots a text gets, one adapter for every number, several passages in a prompt."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from llink import Engine, LlinkError
from llink.adapter.bridge import Bridge
from llink.adapter.prompt import SLOT, TASKS, build
from llink.adapter.slots import filled, generate_ids, target_losses
from llink.data.pairs import Pair
from llink.evaluation.run import evaluate
from llink.plugins import injectors, language
from llink.recipe import InjectorChoice, ProjectorChoice, Verbatim, validate
from llink.serving.reader import Piece
from llink.store.models import load_decoder
from llink.training.examples import Batches
from llink.training.run import longer, train
from llink.training.stage_b import Example, Passage, task_batches
from llink.training.warm_start import slots_of_step
from llink_khmer import SAMPLES

SLOTS = {"min": 2, "max": 6, "per_tokens": 3}
KHMER = [sample.foreign for sample in SAMPLES]
SHORT = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def raw(raw_recipe: dict[str, Any]) -> dict[str, Any]:
    raw = json.loads(json.dumps(raw_recipe))
    raw["injector"]["slots"] = {**SLOTS, "nested": 0.5}
    raw["stage_b"] |= {"long_share": 0.4, "passages": 3, "lr_lora": 1e-2}
    return raw | {"verbatim": {"tokens": 12}}


@pytest.fixture(scope="module")
def adapter(raw: dict[str, Any], pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adaptive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(folder / "home"))
        return train(validate(raw, "test"), stage="all", data=pairs_folder, out=folder / "run")


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, adapter: Path) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", adapter)
    return engine


def test_a_longer_text_gets_more_slots() -> None:
    choice = InjectorChoice(slots=SLOTS)
    assert [choice.count(tokens) for tokens in (1, 6, 7, 9, 10, 18, 19, 500)] == [2, 2, 3, 3, 4, 6, 6, 6]
    assert (choice.least, choice.most) == (2, 6)
    fixed = InjectorChoice(slots=5)
    assert (fixed.count(1), fixed.count(500), fixed.least, fixed.most) == (5, 5, 5, 5)


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ({"min": 9, "max": 8}, "min is 9"),
        ({"max": 65}, "64"),
        ({"per_tokens": 0}, "greater than or equal to 0.01"),
        (0, "1"),
    ],
)
def test_slots_of_no_sense_are_refused(raw_recipe: dict[str, Any], slots: Any, said: str) -> None:
    with pytest.raises(LlinkError, match=rf"\[E202\].*injector\.slots.*{said}"):
        validate({**raw_recipe, "injector": {"slots": slots}}, "test")


@pytest.mark.parametrize("kind", injectors())
def test_any_number_of_slots_from_the_same_weights(kind: str) -> None:
    torch.manual_seed(1)
    options = {"width": 32, "depth": 1, "heads": 2} if kind == "resampler" else {}
    bridge = Bridge(24, 32, ProjectorChoice(hidden=16), InjectorChoice(kind=kind, slots=SLOTS, options=options), 1.0)
    pooled, states, mask = torch.randn(3, 24), torch.randn(3, 11, 24), torch.ones(3, 11, dtype=torch.bool)
    bridge.eval()
    whole = bridge(pooled, states, mask, 6)
    for count in range(1, 7):
        some = bridge(pooled, states, mask, count)
        assert some.shape == (3, count, 32)
        torch.testing.assert_close(some.norm(dim=-1).mean(), whole.norm(dim=-1).mean(), atol=0.2, rtol=0)
        assert not torch.allclose(some[0], some[1], atol=1e-3)
    assert bridge(pooled, states, mask).shape[1] == 4  # 11 tokens, one slot for three
    assert bridge.none(2, 3).shape == (2, 3, 32)
    # What stands behind a text is not read.
    longer_states, longer_mask = torch.randn(3, 15, 24), torch.zeros(3, 15, dtype=torch.bool)
    longer_states[:, :11], longer_mask[:, :11] = states, True
    torch.testing.assert_close(bridge(pooled, longer_states, longer_mask, 5), bridge(pooled, states, mask, 5))


def test_nested_steps_take_every_number() -> None:
    sizes = {"encoder_size": 8, "decoder_size": 8, "projector": ProjectorChoice(hidden=8), "slot_norm": 1.0}
    nested = Bridge(injector=InjectorChoice(slots={**SLOTS, "nested": 0.5}), **sizes)
    found = Counter(slots_of_step(nested, 9, 17, step) for step in range(400))
    assert set(found) == {2, 3, 4, 5, 6}
    assert 200 < found[3] < 280  # its own in half of the steps, and one in five of the others
    assert [slots_of_step(nested, 9, 17, step) for step in range(9)] == [
        slots_of_step(nested, 9, 17, step) for step in range(9)
    ]
    for choice, own in ((InjectorChoice(slots={**SLOTS, "nested": 0}), 3), (InjectorChoice(slots=5), 5)):
        assert {slots_of_step(Bridge(injector=choice, **sizes), 9, 17, step) for step in range(50)} == {own}


def passages(engine: Engine, texts: list[str]) -> list[Piece]:
    return engine.reader.passages(texts, engine.resident("km"))


def test_an_adapter_has_the_slots_that_a_text_needs(engine: Engine, adapter: Path) -> None:
    tokens = dict(zip(KHMER, engine.encoder.count_tokens(KHMER), strict=True))
    short, long = min(tokens, key=tokens.__getitem__), max(tokens, key=tokens.__getitem__)
    assert (tokens[short] + 2) // 3 < 6 < tokens[long]
    for text in (short, long):
        own = max(2, min(6, -(-tokens[text] // 3)))
        slots = engine.slots([text], "km")
        prompt = engine.reader.prompt(TASKS["translate"], engine.resident("km"), passages(engine, [text]))
        assert prompt.slots == slots.shape[1] == own
        with torch.inference_mode(), engine.using("km"):
            embeds = filled(engine.decoder, prompt, slots[0], slots.device)[None]
            [ids] = generate_ids(engine.decoder, embeds, None, 8)
        assert engine.generate(text, "km", loop_guard=False, **SHORT) == engine.decoder.detokenize(ids)
    # Together they have as many as the longest; alone and in the midst of others a text is answered alike.
    assert engine.slots([short, long], "km").shape[1] == 6
    assert engine.generate([short, long], "km", **SHORT) == [engine.generate(t, "km", **SHORT) for t in (short, long)]


def test_an_engine_may_give_fewer(engine: Engine, encoder_folder: str, decoder_folder: str, adapter: Path) -> None:
    few = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32", max_slots=4)
    few.add("km", adapter)
    own = {text: piece.k for text, piece in zip(KHMER, passages(engine, KHMER), strict=True)}
    assert [piece.k for piece in passages(few, KHMER)] == [min(4, k) for k in own.values()]
    long = max(own, key=own.__getitem__)
    assert own[long] == 6
    prompt = few.reader.prompt("x", few.resident("km"), passages(few, [long]))
    assert prompt.slots == few.slots([long], "km").shape[1] == 4
    # Not the first rows of what there would be more of: fewer queries share out the whole text.
    assert not torch.equal(few.slots([long], "km")[0], engine.slots([long], "km")[0, :4])
    few.close()


def test_an_evaluation_with_fewer(raw: dict[str, Any], pairs_folder: Path, adapter: Path) -> None:
    tokens = {
        most: evaluate(
            language("km"), ["translate"], recipe=validate(raw, "test"), data=pairs_folder, adapter=adapter, against=(),
            max_slots=most,
        )["translate"]["dev"]["foreign prompt tokens"]
        for most in (2, None)
    }  # fmt: skip
    assert tokens[2] < tokens[None]


def test_passages_of_different_lengths_in_one_prompt(engine: Engine) -> None:
    pieces, resident = passages(engine, KHMER[:4]), engine.resident("km")
    slots = engine.reader.slots(pieces, resident)
    each = [engine.slots([text], "km")[0] for text in KHMER[:4]]
    assert len({len(own) for own in each}) > 1
    torch.testing.assert_close(torch.cat(slots), torch.cat(each))
    assert engine.reader.subject(pieces, resident).count(SLOT) == sum(map(len, slots))
    assert engine.generate("\n".join(KHMER[:4]), "km", task="title", **SHORT)


def test_a_prompt_of_several_passages_is_read_as_a_whole(decoder_folder: str) -> None:
    """In a batch whose prefix is shared, and one by one as plain embeddings."""
    torch.manual_seed(3)
    decoder = load_decoder(decoder_folder, dtype="float32")
    prompts = [build(decoder, "x", slots=[2, 3], kept=[[5], line]) for line in ([6, 7, 8], [])]
    slots, targets = torch.randn(2, 5, decoder.hidden_size), [[9, 10, 11], [12]]
    losses = target_losses(decoder, prompts, slots, targets)
    for row, target in enumerate(targets):
        start = filled(decoder, prompts[row], slots[row], slots.device)
        labels = torch.tensor([*target, decoder.end_of_turn])
        embeds = torch.cat([start, decoder.embed(labels[:-1])])[None]
        logits = decoder.model(inputs_embeds=embeds).logits[0, len(start) - 1 :]
        alone = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        torch.testing.assert_close(losses[row, : len(labels)], alone, atol=1e-4, rtol=1e-4)


def test_longer_texts_are_pairs_of_one_source() -> None:
    pairs = [Pair(f"e{n}", f"f{n}", "a" if n < 20 else "b", "CC0-1.0") for n in range(24)]
    pairs += [Pair("alone", "alone", "c", "CC0-1.0")]
    texts = longer(pairs, 200, 5, random.Random(1))
    assert len(texts) == 200
    assert {len(text) for text in texts} == {2, 3, 4, 5}
    assert all(len({pair.source for pair in text}) == 1 and len(set(text)) == len(text) for text in texts)
    assert {pair.source for text in texts for pair in text} == {"a", "b"}
    assert longer(pairs[-1:], 5, 5, random.Random(1)) == []


def test_batches_have_one_number_of_passages(decoder_folder: str) -> None:
    decoder = load_decoder(decoder_folder, dtype="float32")
    more = (Passage("b", "two 7", ("7",)), Passage("c", "three", ()))
    examples = [Example("a", "translate", "one", "one", ())] * 5
    examples += [Example("a", "translate", "one two 7 three", "one", (), more)] * 5
    batches = task_batches(examples, [1] * 10, 2, 1)
    drawn = [next(batches) for _ in range(20)]
    assert {len({len(examples[i].more) for i in rows}) for rows in drawn} == {1}
    assert {len(examples[rows[0]].more) for rows in drawn} == {0, 2}
    made = Batches(decoder, examples, Verbatim(tokens=9, dropout=0, swap=1), longest=4, seed=1)
    swapped, prompts, targets = made([5, 6], 0, 3)
    for example, prompt, target in zip(swapped, prompts, targets, strict=True):
        [value] = example.more[0].values or ()
        assert value != "7"
        assert example.more[0].english == f"two {value}"
        assert example.target == f"one two {value} three"
        assert prompt.slots == 9
        assert f"Keep: {value}\n" in decoder.detokenize([i for i in prompt.ids if i >= 0])
        assert target == decoder.tokenize(example.target)[:12]
