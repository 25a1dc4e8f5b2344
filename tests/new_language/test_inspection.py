"""``llink inspect``: token counts on real tokenizers, zero-shot retrieval, the verdict and the estimate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from llink.cli import main
from llink.data.pairs import Pair
from llink.evaluation.zero_shot import zero_shot
from llink.features.cache import FeatureCache
from llink.interfaces import Encoded, Encoder
from llink.new_language.inspection import ABOVE_CHANCE, WELL, Fragmentation, fragmentation, judge, stored_tokenizer
from llink.store import ensure
from llink.testing import tiny_recipe as recipe_of
from llink_khmer import SAMPLES

ADLAM = "𞤀𞤣𞤤𞤢𞤥 𞤫 𞤆𞤵𞤤𞤢𞤪"
PAIRS = [(sample.foreign, sample.english) for sample in SAMPLES]


def test_fragmentation_counts_both_sides() -> None:
    found = fragmentation([("ab cd", "x y z"), ("abc", "x")], lambda texts: [len(text) for text in texts])
    assert found == Fragmentation(tokens=4, english_tokens=3, ratio=8 / 6, per_character=8 / 7, unreadable=None)


@pytest.mark.parametrize("name", ["xlm_roberta", "gemma3", "chatml_llama"])
def test_unreadable_are_unknown_tokens_and_pieces_of_characters(models: Callable[[str], str], name: str) -> None:
    """One tokenizer says <unk>, one falls back to bytes, one has nothing but bytes: all are the same to a reader."""
    role = "decoder" if name == "chatml_llama" else "encoder"
    tokenizer = stored_tokenizer(models(name), role)
    assert tokenizer is not None
    assert tokenizer.unreadable([ADLAM]) == 1
    assert tokenizer.unreadable([sample.english for sample in SAMPLES]) == 0
    half = tokenizer.unreadable([ADLAM, SAMPLES[0].english])
    assert 0 < half < 1
    assert tokenizer.unreadable(["! ?"]) == 0
    found = fragmentation(PAIRS, tokenizer.count, tokenizer.unreadable)
    assert found.ratio == pytest.approx(found.tokens / found.english_tokens)
    assert found.unreadable is not None
    # All of Khmer is in the vocabulary of the encoders; the byte-level decoder spells some of it out.
    assert (found.unreadable > 0) == (name == "chatml_llama")


def test_tokenizer_of_a_model_that_is_not_stored_is_not_fetched(tmp_path: Path) -> None:
    assert stored_tokenizer("gemma3-270m", "encoder") is None
    assert not (tmp_path / "home" / "models").exists()


def test_counts_agree_with_the_encoder(models: Callable[[str], str]) -> None:
    from llink.store.models import load_encoder

    folder = models("xlm_roberta")
    tokenizer = stored_tokenizer(folder, "encoder")
    assert tokenizer is not None
    texts = [sample.foreign for sample in SAMPLES]
    assert tokenizer.count(texts) == load_encoder(folder, dtype="float32").count_tokens(texts)


class Reader(Encoder):
    """An encoder of a plugin's own: a vector for each meaning, and a large offset for each language."""

    name, hidden_size, max_tokens, fingerprint, signature = "reader", 8, 16, "0", "reader"

    def __init__(self, meanings: Sequence[str]) -> None:
        self.vectors = torch.randn(len(meanings), self.hidden_size, generator=torch.Generator().manual_seed(0))
        self.meanings = list(meanings)
        self.read: list[str] = []

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """One token a text: its meaning, negative (and one less) where it is foreign."""
        numbers = [self.meanings.index(text.removeprefix("F ")) for text in texts]
        return [[~n if text.startswith("F ") else n] for n, text in zip(numbers, texts, strict=True)]

    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Encoded:
        texts = [f"F {self.meanings[~n]}" if n < 0 else self.meanings[n] for [n] in tokens]
        self.read += texts
        pooled = torch.stack([self.vectors[max(n, ~n)] + 50 * (n < 0) for [n] in tokens])
        return Encoded(pooled[:, None], torch.ones(len(texts), 1, dtype=torch.bool), pooled)


def test_zero_shot_takes_the_language_out_and_encodes_nothing_twice(tmp_path: Path) -> None:
    meanings = [f"meaning {n}" for n in range(40)]
    reader = Reader(meanings)
    cache = FeatureCache(tmp_path, reader)
    pairs = [Pair(meaning, f"F {meaning}") for meaning in meanings]
    found = zero_shot(cache, pairs)
    assert (found["candidates"], found["chance"]) == (40, 1 / 40)
    assert found["r1"] > 0.9
    assert found["back_r1"] > 0.9
    assert zero_shot(cache, pairs) == found
    assert sorted(reader.read) == sorted(meanings + [p.foreign for p in pairs])
    turned = [Pair(p.english, pairs[n - 1].foreign) for n, p in enumerate(pairs)]
    assert zero_shot(cache, turned)["r1"] < 0.1


def metrics(r1: float, candidates: int = 200) -> dict[str, float]:
    return {"candidates": candidates, "chance": 1 / candidates, "r1": r1, "back_r1": r1}


@pytest.mark.parametrize(
    ("unreadable", "r1", "candidates", "reads", "says"),
    [
        # As measured with Gemma 3 270M: Khmer, Amharic software text, Dhivehi, Somali, Adlam, Vai.
        (0.0, 0.65, 200, "yes", "reads Xish: untrained, it finds 65% of the translations, 130.0 times"),
        (0.002, 0.17, 200, "yes", "reads Xish"),
        (0.001, 0.10, 48, "poorly", "reads Xish poorly"),
        (0.0, 0.01, 48, "no", "cannot read Xish: untrained, it finds 1% of the translations, 0.5 times"),
        (1.0, 0.05, 50, "no", "100% of its tokens are unknown or pieces of characters"),
        (0.94, 0.008, 60, "no", "94% of its tokens"),
        # Names in Latin letters among a strange script, and an encoder that reads bytes.
        (0.7, 0.08, 200, "no", "70% of its tokens"),
        (1.0, 0.4, 200, "yes", "reads Xish"),
        (None, 0.002, 200, "no", "it knows the letters, but not the language"),
        # A handful of samples.
        (0.0, 0.5, 6, "unknown", "6 pairs are too few"),
        (0.9, 0.5, 6, "no", "90% of its tokens"),
    ],
)
def test_verdict(unreadable: float | None, r1: float, candidates: int, reads: str, says: str) -> None:
    tokens = Fragmentation(50, 20, 2.5, 0.5, unreadable)
    found = judge("Xish", "enc", tokens, metrics(r1, candidates))
    assert found.reads == reads
    assert says in found.why
    assert found.why.startswith(("enc ", "6 pairs"))
    assert ("--encoder" in found.advice) == (reads in ("no", "poorly"))


def inspect(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, args)], prog_name="llink")


@pytest.fixture
def recipe_file(tmp_registry: Path, tmp_path: Path) -> Path:
    """A recipe for the default pair of ``tmp_registry``, on ``pairs_folder``."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe_of("km")))
    return path


def test_instructions_that_are_there_need_no_distillation(
    tmp_registry: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    raw = recipe_of("km")
    raw["data"]["instructions"] = ["instruct.jsonl"]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw))
    report = json.loads(inspect("km", "--recipe", path, "--data", pairs_folder, "--json").stdout)
    assert report["estimate"]["seconds"]["self-distillation"] == 0


def test_report_on_data(recipe_file: Path, pairs_folder: Path, tiny_texts: list[str]) -> None:
    result = inspect("km", "--recipe", recipe_file, "--data", pairs_folder, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["language"], report["encoder"], report["decoder"]) == ("km", "tiny-encoder", "tiny-decoder")
    assert (report["looked_at"], report["pairs"]) == ("dev", 6)
    assert report["encoder_tokens"]["unreadable"] == 0
    assert report["decoder_tokens"]["unreadable"] > 0
    assert report["zero_shot"]["chance"] == pytest.approx(1 / 6)
    [source] = report["data"]["sources"]
    assert source == {"source": "samples", "licence": "CC0-1.0", "pairs": report["data"]["pairs"]}
    assert report["data"]["pairs"] + sum(report["data"]["left_out"].values()) == 24
    assert report["data"]["english"] == 2
    estimate = report["estimate"]
    assert (estimate["pairs"], estimate["assumed"]) == (report["data"]["pairs"], False)
    assert list(estimate["seconds"]) == ["encoding", "stage A", "warm start", "self-distillation", "stage B"]
    assert all(0 < seconds < 600 for seconds in estimate["seconds"].values())
    assert (estimate["device"], estimate["dtype"]) == ("cpu", "float32")


def weights(name: str) -> int:
    from safetensors import safe_open

    with safe_open(ensure(name).path / "model.safetensors", framework="pt") as tensors:
        return sum(tensors.get_tensor(key).numel() for key in tensors.keys())  # noqa: SIM118


def test_estimate_counts_bytes_and_grows_with_the_recipe(recipe_file: Path, pairs_folder: Path) -> None:
    def estimate() -> Any:
        result = inspect("km", "--recipe", recipe_file, "--data", pairs_folder, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["estimate"]

    before = estimate()
    # The encoder is cut at layer 2 of 3; the decoder's two embeddings are one.
    assert 4 * weights("tiny-decoder") < before["bytes"]["weights"]
    assert before["bytes"]["weights"] < 4 * (weights("tiny-decoder") + weights("tiny-encoder"))
    assert before["bytes"]["peak"] > before["bytes"]["weights"] + before["bytes"]["trained"]
    raw = yaml.safe_load(recipe_file.read_text())
    raw["stage_a"]["epochs"] *= 1000
    raw["stage_b"]["examples"] *= 1000
    raw["stage_c"] = {"examples": 16}
    recipe_file.write_text(yaml.safe_dump(raw))
    after = estimate()
    assert after["seconds"]["stage A"] > 20 * before["seconds"]["stage A"]
    assert after["seconds"]["stage B"] > 20 * before["seconds"]["stage B"]
    assert 0 < after["seconds"]["stage C"] < after["seconds"]["stage B"]
    # The pairs went through the encoder in the first report and the cache keeps them; the general English did not.
    assert 0 < after["seconds"]["encoding"] < before["seconds"]["encoding"] / 3
    assert after["bytes"]["cache"] == before["bytes"]["cache"]


def test_report_without_data_says_what_is_missing(recipe_file: Path, tmp_path: Path) -> None:
    result = inspect("km", "--recipe", recipe_file, "--data", tmp_path / "nothing")
    assert result.exit_code == 0, result.output
    assert f"Khmer (km), recipe tiny: {len(SAMPLES)} pairs of samples" in result.stdout
    assert "No training data: " in result.stdout
    assert "train.jsonl" in result.stdout or "dev.jsonl" in result.stdout
    assert "`llink data harvest km`" in result.stdout
    assert "Estimate for an assumed 20000 pairs" in result.stdout
    assert "tiny-encoder" in result.stdout


def test_verdict_follows_from_the_numbers(recipe_file: Path, tmp_path: Path) -> None:
    result = inspect("km", "--recipe", recipe_file, "--data", tmp_path, "--json")
    report = json.loads(result.stdout)
    r1 = (report["zero_shot"]["r1"] + report["zero_shot"]["back_r1"]) / 2
    expected = "no" if r1 < ABOVE_CHANCE / len(SAMPLES) else "poorly" if r1 < WELL else "yes"
    assert report["verdict"]["reads"] == expected


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("kmm",), "[E201]"),
        (("km", "--recipe", "cpuu"), "[E205]"),
        (("km", "--encoder", "tiny-encodr"), "[E101] Unknown model 'tiny-encodr'. Did you mean 'tiny-encoder'?"),
        (("km", "--encoder", "tiny-decoder"), "[E103]"),
    ],
)
def test_wrong_names(tmp_registry: Path, args: tuple[str, ...], says: str) -> None:
    result = inspect(*args)
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


FULA = """
from llink.hookspecs import hookimpl
from llink.interfaces import Language, Sample

SAMPLES = {samples}

@hookimpl
def llink_languages():
    names = ("ff", "ful", "Fula", ("ADLAM",), __name__)
    return [Language(*names, samples=tuple(Sample(*row) for row in SAMPLES))]
"""


def in_adlam(text: str) -> str:
    """English in Adlam letters: a script that no tokenizer here has seen."""
    return "".join(chr(0x1E900 + ord(c.lower()) - ord("a")) if c.isascii() and c.isalpha() else c for c in text)


@pytest.mark.parametrize("count", [30, 0])
def test_a_language_the_encoder_cannot_read_is_named_as_such(tmp_registry: Path, tmp_path: Path, count: int) -> None:
    """A registered language without recipe or data, in a process of its own; without samples it is CLDR's."""
    package = tmp_path / "code" / "llink_fula"
    package.mkdir(parents=True)
    samples = [(in_adlam(sample.english), sample.english) for sample in SAMPLES[:count]]
    (package / "__init__.py").write_text(FULA.format(samples=samples), encoding="utf-8")
    raw = yaml.safe_load(tmp_registry.read_text())
    tmp_registry.write_text(
        yaml.safe_dump({**raw, "languages": {"ff": {"package": "llink_fula", "path": str(package.parent)}}})
    )
    result = subprocess.run(
        [sys.executable, "-m", "llink", "inspect", "ff"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        encoding="utf-8",
        timeout=300,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    if not count:
        assert "pairs of names of countries (CLDR)" in result.stdout
        return
    assert "tiny-encoder cannot read Fula: untrained, it finds " in result.stdout
    assert "100% of its tokens are unknown or pieces of characters" in result.stdout
    assert "With this one, no training will help." in result.stdout
