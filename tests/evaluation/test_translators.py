"""Translation models of others, tiny ones of the true classes: how each is asked for English, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_translators as tiny
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from llink import LlinkError, plugins
from llink.evaluation.translators import Spec, open_translator
from llink_khmer import SAMPLES

KM = plugins.language("km")
ONE, TWO = SAMPLES[0].foreign, SAMPLES[1].foreign


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that knows nothing does not end."""
    monkeypatch.setattr("llink.evaluation.translators.seq2seq.LIMIT", 12)
    monkeypatch.setattr("llink.evaluation.translators.fast.LIMIT", 12)


@pytest.fixture(scope="session")
def translators(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folder of a tiny translation model by its name in ``tiny_translators``, written at first use."""
    root = tmp_path_factory.mktemp("translators")

    def folder(name: str) -> str:
        return str(getattr(tiny, name)(root / name) if not (root / name).exists() else root / name)

    return folder


@pytest.mark.parametrize(
    ("name", "before", "behind", "first"),
    [
        ("nllb", ["khm_Khmr"], ["</s>"], "eng_Latn"),
        ("m2m100", ["__km__"], ["</s>"], "__en__"),
        ("marian", [], ["</s>"], None),
        ("madlad", ["<2en>"], ["</s>"], None),
    ],
)
def test_each_kind_is_asked_as_it_was_trained(
    translators: Callable[[str], str], name: str, before: list[str], behind: list[str], first: str | None
) -> None:
    """Beside what transformers does with tokens put together here by hand."""
    folder = translators(name)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    forced = {"forced_bos_token_id": ids(first)} if first else {}
    marks = {*getattr(tokenizer, "lang_code_to_id", {}).values()}
    wanted = []
    for sample in SAMPLES[:3]:
        text = tokenizer(KM.normalise(sample.foreign), add_special_tokens=False).input_ids
        batch = torch.tensor([[*map(ids, before), *text, *map(ids, behind)]])
        row = model.generate(batch, max_new_tokens=12, do_sample=False, **forced)[0].tolist()
        assert not first or row[1] == ids(first)
        wanted.append(tokenizer.decode([i for i in row if i not in marks], skip_special_tokens=True).strip())
    assert len(set(wanted)) > 1
    translator = open_translator(folder, KM)
    assert [translator.sentences([KM.normalise(s.foreign)])[0] for s in SAMPLES[:3]] == wanted


def test_a_model_that_knows_its_sentences(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    pairs = [(KM.normalise(s.foreign), s.english) for s in SAMPLES[:3]]
    model = open_translator(str(tiny.taught(tmp_path / "model", pairs)), KM)
    assert model.translate([foreign for foreign, _ in pairs]) == [english for _, english in pairs]
    fast = open_translator(f"ct2:{tmp_path / 'model'}", KM)
    assert fast.translate([pairs[2][0]]) == [pairs[2][1]]
    together = f"{pairs[0][0]}\n{pairs[1][0]}"
    assert model.translate([together, " "]) == [f"{pairs[0][1]} {pairs[1][1]}", ""], "sentence by sentence"
    weights = json.loads((tmp_path / "model" / "config.json").read_text())["vocab_size"] * 32
    assert model.bytes > 4 * weights
    assert "beams 1" in model.signature


@pytest.mark.parametrize("name", ["marian", "madlad"])
def test_ctranslate2_is_the_same_model(translators: Callable[[str], str], tmp_path: Path, name: str) -> None:
    pytest.importorskip("ctranslate2")
    plain, fast = (open_translator(f"{how}{translators(name)}", KM) for how in ("", "ct2:"))
    assert fast.way == plain.way  # type: ignore[attr-defined]
    assert fast.translate([ONE, TWO])[0]
    assert 0 < fast.bytes < plain.bytes
    assert "int8" in fast.signature
    assert fast.fingerprint != plain.fingerprint
    [kept] = (tmp_path / "home" / "ctranslate2").iterdir()
    before = kept.stat().st_mtime_ns
    assert open_translator(f"ct2:{translators(name)}", KM).fingerprint == fast.fingerprint
    assert kept.stat().st_mtime_ns == before, "converted once"


def code_of(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(LlinkError) as caught:
        call()
    return caught.value.code, f"{caught.value.message} {caught.value.hint}"


def test_languages_that_a_model_does_not_know(translators: Callable[[str], str], tmp_path: Path) -> None:
    lao = dataclasses.replace(KM, code="xx", code3="xxx", name="Nowhere")
    for name in ("nllb", "m2m100"):
        code, said = code_of(lambda name=name: open_translator(translators(name), lao))
        assert (code, "Nowhere" in said) == ("E533", True)
    folder = translators("nllb")
    assert open_translator(f"{folder}#lao_Laoo", lao).way.source == "lao_Laoo"  # type: ignore[attr-defined]
    assert code_of(lambda: open_translator(f"{folder}#lao_Lao", lao))[0] == "E533"
    chinese = dataclasses.replace(KM, code="zh", code3="zho", name="Chinese", scripts=("CJK",))
    code, said = code_of(lambda: open_translator(folder, chinese))
    assert code == "E533"
    assert "zho_Hans, zho_Hant" in said
    arabic = dataclasses.replace(KM, code="ks", code3="kas", name="Kashmiri", scripts=("ARABIC",))
    assert open_translator(folder, arabic).way.source == "kas_Arab"  # type: ignore[attr-defined]


def test_marian_to_several_languages_or_from_another(tmp_path: Path) -> None:
    several = tiny.marian(tmp_path / "several", [">>eng<<", ">>deu<<"], writes="mul")
    assert open_translator(str(several), KM).way.prefix == ">>eng<< "  # type: ignore[attr-defined]
    for folder in (
        tiny.marian(tmp_path / "german", [">>deu<<"], writes="mul"),
        tiny.marian(tmp_path / "french", reads="fr"),
        tiny.marian(tmp_path / "to french", reads="en", writes="fr"),
    ):
        assert code_of(lambda folder=folder: open_translator(str(folder), KM))[0] == "E533"


def test_what_is_no_translation_model(decoder_folder: str, tmp_path: Path) -> None:
    assert code_of(lambda: open_translator(decoder_folder, KM))[0] in ("E532", "E533")
    (tmp_path / "config.json").write_text("{}")
    assert code_of(lambda: open_translator(str(tmp_path), KM))[0] == "E532"
    assert code_of(lambda: open_translator("", KM))[0] == "E532"


def test_weights_that_run_code_are_not_read(translators: Callable[[str], str], tmp_path: Path) -> None:
    """A pickle is read for its tensors alone: whatever else is in it is an error."""
    import pickle
    import shutil

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "owned",)  # type: ignore[return-value]

    folder = Path(shutil.copytree(translators("nllb"), tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.shared.weight": Evil()}))
    assert code_of(lambda: open_translator(str(folder), KM))[0] == "E532"
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("facebook/nllb-200-distilled-600M", Spec("facebook/nllb-200-distilled-600M")),
        ("ct2:o/m@refs/pr/3#pes_Arab", Spec("o/m", "refs/pr/3", "pes_Arab", True)),
        ("o/m@abc", Spec("o/m", "abc")),
    ],
)
def test_names(name: str, spec: Spec) -> None:
    assert Spec.read(name) == spec
