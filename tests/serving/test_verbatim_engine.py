"""An adapter with the verbatim channel: trained from one without, loaded, asked in every way the engine has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llink import Engine, LlinkError, plugins
from llink.adapter import shared
from llink.adapter.files import MANIFEST, read_manifest
from llink.adapter.prompt import SYSTEM, TASKS, beside, build, channel, converse, subject
from llink.adapter.slots import filled, generate_ids
from llink.evaluation import evaluator
from llink.evaluation.base import Subject
from llink.evaluation.exact import sentences
from llink.features.cache import FeatureCache
from llink.home import home
from llink.interfaces import Language
from llink.recipe import validate
from llink.training.run import train
from llink_khmer import SAMPLES

TEXT, PLAIN = "រោងចក្រអគ្គិសនីនេះផលិតបាន ៣០ MW។", "ខ្ញុំសុខសប្បាយ។"
VALUES = ["30 MW"]
TOKENS = 24
SHORT: dict[str, Any] = {"max_new_tokens": 8, "loop_guard": False}  # nor have the answers by hand


@pytest.fixture(scope="module")
def adapter(
    raw_recipe: dict[str, Any], tiny_adapter: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Trained with the channel from an adapter that has none."""
    folder = tmp_path_factory.mktemp("verbatim")
    raw = json.loads(json.dumps(raw_recipe)) | {"init_from": str(tiny_adapter), "verbatim": {"tokens": TOKENS}}
    raw["stage_b"] |= {"lr_lora": 1e-2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(folder / "home"))
        return train(validate(raw, "test"), stage="all", data=pairs_folder, out=folder / "run")


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, adapter: Path, tiny_adapters: dict[str, Path]) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", adapter)
    engine.add("my", tiny_adapters["my"])
    return engine


def by_hand(engine: Engine, prompt: Any, *texts: str) -> str:
    """The answer to a prompt put together here."""
    slots = engine.slots(texts, "km").flatten(0, 1)
    with torch.inference_mode(), engine.using("km"):
        embeds = filled(engine.decoder, prompt, slots, slots.device)[None]
        [ids] = generate_ids(engine.decoder, embeds, None, 8)
    return engine.decoder.detokenize(ids)


def line(engine: Engine, values: list[str]) -> list[int]:
    return channel(engine.decoder, values, TOKENS)


def test_the_manifest_says_that_there_is_a_channel(adapter: Path, tiny_adapter: Path) -> None:
    new, older = read_manifest(adapter), read_manifest(tiny_adapter)
    assert (new.verbatim, older.verbatim) == (TOKENS, 0)
    assert new.prompt != older.prompt
    assert new.init_from["files"] == older.files


def test_adapter_that_denies_its_channel_is_refused(adapter: Path, engine: Engine, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"verbatim": 0}))
    with pytest.raises(LlinkError, match=r"\[E311\].*another prompt"):
        engine.add("km", copy)


def test_the_values_stand_behind_the_slots(engine: Engine) -> None:
    resident = engine.resident("km")
    for text, values in ((TEXT, VALUES), (PLAIN, [])):
        plain = build(engine.decoder, TASKS["qa"], slots=4)
        whole = beside(plain, line(engine, values))
        read = engine.reader.passages([text], resident)
        assert engine.reader.prompt(TASKS["qa"], resident, read) == whole
        assert engine.reader.prompt(TASKS["qa"], resident, read, verbatim=False) == plain
        assert engine.reader.prompt(TASKS["qa"], resident) == plain
        assert engine.generate(text, "km", task="qa", **SHORT) == by_hand(engine, whole, text)
        assert engine.generate(text, "km", task="qa", verbatim=False, **SHORT) == by_hand(engine, plain, text)
    assert engine.generate(TEXT, "km", **SHORT) != engine.generate(TEXT, "km", verbatim=False, **SHORT)


def test_each_passage_has_its_own_line(engine: Engine) -> None:
    long = f"{PLAIN}\n" + TEXT * 9
    pieces = [piece.text for piece in engine.reader.pieces(long, engine.resident("km"))]
    assert len(pieces) > 1
    kept = [line(engine, VALUES if "MW" in piece else []) for piece in pieces]
    prompt = build(engine.decoder, TASKS["qa"], slots=4, passages=len(pieces), kept=kept)
    assert engine.generate(long, "km", task="qa", **SHORT) == by_hand(engine, prompt, *pieces)


class Counted:
    """A callable that counts its calls, with all else that it has."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        return self.inner(*args, **named)


def test_a_new_text_is_looked_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its way to its answer: tokenised by the encoder, searched for values, its language found."""
    texts = [sample.foreign for sample in SAMPLES[20:23]]
    engine.generate(PLAIN, **SHORT)  # what is counted below is the texts' alone
    tokenizer, verbatim = Counted(engine.encoder.tokenizer), Counted(Language.verbatim)
    by_name, by_script = Counted(plugins.language), Counted(shared.detect)
    monkeypatch.setattr(engine.encoder, "tokenizer", tokenizer)
    monkeypatch.setattr(Language, "verbatim", lambda *args: verbatim(*args))
    monkeypatch.setattr(plugins, "language", by_name)
    monkeypatch.setattr(shared, "detect", by_script)
    assert engine.generate(texts[0], "km", **SHORT)
    assert (tokenizer.calls, verbatim.calls, by_name.calls, by_script.calls) == (1, 1, 1, 0)
    assert engine.generate(texts[1], **SHORT)
    assert (tokenizer.calls, verbatim.calls, by_name.calls, by_script.calls) == (2, 2, 1, 1)
    assert engine.generate(texts[2], task="qa", **SHORT)
    assert (tokenizer.calls, verbatim.calls, by_name.calls, by_script.calls) == (3, 3, 1, 2)


def test_with_and_without_channel_in_one_batch(engine: Engine) -> None:
    texts, codes = [TEXT, f"မင်္ဂလာပါ {TEXT}", PLAIN, f"မင်္ဂလာပါ {PLAIN}", "Hello"], ["km", "my", "km", "my", None]
    alone = [engine.generate(text, code, **SHORT) for text, code in zip(texts, codes, strict=True)]
    assert engine.generate(texts, language=codes, **SHORT) == alone
    assert engine.generate(texts[1], "my", verbatim=False, **SHORT) == alone[1]


def test_digits_of_what_retells_a_text_are_those_of_its_values(engine: Engine) -> None:
    pushed = {(i,): 50.0 for digit in "0123456789" for i in engine.decoder.tokenize(digit)}
    options: dict[str, Any] = {**SHORT, "sequence_bias": pushed}

    def digits(text: str = TEXT, **how: Any) -> set[str]:
        return set(engine.generate(text, "km", **how, **options)) & set("0123456789")

    for task in ("translate", "summarize", "title"):
        assert digits(task=task) == {"3", "0"}, task
        assert digits(PLAIN, task=task) == set(), task
        assert digits(PLAIN, task=task, verbatim=False), task
    assert digits(PLAIN, task="keypoints")
    assert digits(PLAIN, instruction=TASKS["translate"])
    assert "".join(engine.stream(TEXT, "km", **options)) == engine.generate(TEXT, "km", **options)
    with_my = engine.generate([TEXT, PLAIN, "မင်္ဂလာပါ"], language=["km", "km", "my"], **options)
    assert with_my == [engine.generate(t, c, **options) for t, c in ((TEXT, "km"), (PLAIN, "km"), ("မင်္ဂလာပါ", "my"))]


def test_stream_and_chat(engine: Engine) -> None:
    assert "".join(engine.stream(TEXT, "km", **SHORT)) == engine.generate(TEXT, "km", **SHORT)
    bare = "".join(engine.stream(TEXT, "km", verbatim=False, **SHORT))
    assert bare == engine.generate(TEXT, "km", verbatim=False, **SHORT)
    tokenize = engine.decoder.tokenize
    user = tokenize("What?\n") + subject(engine.decoder, [4], kept=[line(engine, VALUES)])
    prompt = converse(engine.decoder, [("system", tokenize(SYSTEM)), ("user", user)])
    assert engine.chat([{"role": "user", "content": ["What?", TEXT]}], **SHORT) == by_hand(engine, prompt, TEXT)


def test_suites_measure_with_and_without(engine: Engine, adapter: Path) -> None:
    khmer = plugins.language("km")
    names = engine.encoder.name, engine.decoder.name
    measured = Subject(engine, khmer, FeatureCache(home() / "features", engine.encoder), names, limit=4)
    found = evaluator("exact")(measured, sentences(khmer))
    assert {"exact", "exact without channel", "invented", "invented without channel"} <= found.metrics.keys()
    assert all("without channel" in value["against"] for row in found.predictions for value in row["values"])
    tokens = evaluator("tokens")(measured, sentences(khmer)).metrics
    without = len(build(engine.decoder, TASKS["translate"], slots=4).ids)
    assert without < tokens["prompt tokens"] <= without + TOKENS + len(line(engine, []))
    usage = evaluator("usage")(measured, sentences(khmer)).metrics
    assert usage["right"] > 0
