"""docs/method.py runs, learns, and its pieces are those of the framework."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from llink.adapter.losses.bag_of_words import BagOfWords
from llink.adapter.losses.cosine import Cosine
from llink.adapter.losses.info_nce import InfoNCE
from llink.adapter.prompt import TASKS, build
from llink.adapter.slots import target_losses
from llink.store.models import load_decoder, load_encoder
from llink.training.warm_start import SlotTargets
from llink_khmer import SAMPLES

FILE = Path(__file__).parents[1] / "docs" / "method.py"
close = torch.testing.assert_close


@pytest.fixture(scope="module")
def method() -> ModuleType:
    spec = importlib.util.spec_from_file_location("method", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_fits_one_sitting() -> None:
    assert 150 <= len(FILE.read_text("utf-8").splitlines()) <= 200


def test_from_pairs_to_an_answer(encoder_folder: str, decoder_folder: str, pairs_folder: Path) -> None:
    command = [sys.executable, FILE, encoder_folder, decoder_folder, pairs_folder / "train.jsonl", "--layer", "2"]
    options = ["--steps", "60", "60", "60", "--text", SAMPLES[-1].foreign]
    done = subprocess.run([*command, *options], capture_output=True, encoding="utf-8", timeout=500)
    assert done.returncode == 0, done.stderr
    found = [float(re.findall(r"\d\.\d{3}", line)[0]) for line in done.stdout.splitlines()[:5]]
    recall, bag, right, zero, shuffled = found
    assert recall >= 0.9, "of 24 pairs learnt by heart"
    assert bag < 4
    assert right + 0.3 < zero
    assert right + 0.1 < shuffled
    assert done.stdout.splitlines()[5].strip()


@pytest.mark.parametrize("name", ["xlm_roberta", "gemma3"])
def test_features_are_the_frameworks(name: str, models: object, method: ModuleType) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder, text = models(name), SAMPLES[0].foreign  # type: ignore[operator]
    ours = load_encoder(folder, dtype="float32", layer=2).encode([text])
    states = method.encode(AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), text, 2)
    close(states, ours.states[0], atol=1e-5, rtol=1e-5)
    close(states.mean(0), ours.pooled[0], atol=1e-5, rtol=1e-5)


def test_losses_and_prompt_are_the_frameworks(decoder_folder: str, method: ModuleType) -> None:
    decoder = load_decoder(decoder_folder, dtype="float32")
    torch.manual_seed(1)
    student, teacher, groups = torch.randn(4, 32), torch.randn(4, 32), torch.tensor([0, 1, 0, 2])
    close(
        method.info_nce(student, teacher, groups, 0.1),
        InfoNCE()(student=student, teacher=teacher, temperature=0.1, groups=groups),
    )
    texts = [decoder.tokenize(text) for text in ("I am ill.", SAMPLES[0].english, SAMPLES[1].english * 2, "Go!")]
    slots, table = torch.randn(4, method.K, 32), decoder.embedding_matrix()
    targets, vocabulary, wanted = SlotTargets(decoder)([[ids] for ids in texts], method.K)
    bag, cosine, aims = method.imitation(slots, texts, table, decoder.tokenize("\n")[0])
    close(aims, targets)
    close(bag, BagOfWords()(slots=slots, vocabulary=vocabulary, wanted=wanted))
    close(cosine, Cosine()(slots=slots, targets=targets))
    prompt = build(decoder, TASKS["translate"], slots=method.K)
    before, behind = method.prompt_ids(decoder.tokenizer)  # type: ignore[attr-defined]
    assert (before, behind) == (list(prompt.prefix), list(prompt.suffix))
    expected = target_losses(decoder, prompt, slots, texts).sum() / sum(len(ids) + 1 for ids in texts)
    ended = [[*ids, decoder.end_of_turn] for ids in texts]
    close(method.target_loss(decoder.model, (before, behind), slots, ended), expected)
