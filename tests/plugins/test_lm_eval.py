"""lm-evaluation-harness: a task runs on an engine, foreign passages through slots; without the harness, one line."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from llink import LlinkError
from llink.adapter.prompt import SLOT, TASKS, build
from llink.plugins import language
from llink_khmer import SAMPLES

INSTALLED = importlib.util.find_spec("lm_eval") is not None
KHMER = language("km")
A, B, C = (s.foreign for s in SAMPLES[:3])

needs_harness = pytest.mark.skipif(not INSTALLED, reason="lm_eval is not installed: pip install llink[lm-eval]")


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("import llink_plugins.lm_eval", None),
        ("import runpy; runpy.run_module('llink_plugins.lm_eval', run_name='__main__')", 1),
    ],
    ids=["import", "command"],
)
def test_without_the_harness(code: str, lines: int | None) -> None:
    blocked = f"import sys; sys.modules['lm_eval'] = None; {code}"
    result = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    told = result.stderr.splitlines()
    assert re.search(
        r'\[E529\] The lm-evaluation-harness is not installed .* pip install "llink\[lm-eval\]"$', told[-1]
    )
    assert lines in (None, len(told))


def request(*args: Any) -> Any:
    return SimpleNamespace(args=args)


@pytest.fixture(scope="module")
def lm(tiny_adapter: Path, encoder_folder: str, decoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from llink_plugins.lm_eval import LlinkLM

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(tmp_path_factory.mktemp("home")))
        yield LlinkLM("km", str(tiny_adapter), encoder_folder, decoder_folder, dtype="float32", device="cpu")


@needs_harness
@pytest.mark.parametrize(
    ("text", "runs"),
    [
        (f"P: {A}\nQ: {B}\nAnswer:", ["P: ", (A,), "\nQ: ", (B,), "\nAnswer:"]),
        ("Only English.", ["Only English."]),
        (A, [(A,)]),
        ("", []),
        ("Q: ខ្ញុំប្រើ Windows 11 ជារៀងរាល់ថ្ងៃ។ Yes or no?", ["Q: ", ("ខ្ញុំប្រើ Windows 11 ជារៀងរាល់ថ្ងៃ។",), " Yes or no?"]),
        ("Does ទឹក mean the same as the word ត្រី in this sentence?",
         ["Does ", ("ទឹក",), " mean the same as the word ", ("ត្រី",), " in this sentence?"]),
        ("(១២) ទឹក ១០ លីត្រ!?)", ["(", ("១២) ទឹក ១០ លីត្រ!?",), ")"]),
    ],
)  # fmt: skip
def test_what_goes_through_slots(text: str, runs: list[Any]) -> None:
    from llink_plugins.lm_eval import parts

    found = parts(text, KHMER)
    assert [part if isinstance(part, str) else (part.text,) for part in found] == runs
    assert "".join(part if isinstance(part, str) else part.text for part in found) == text


@needs_harness
def test_a_prompt_is_that_of_the_engine(lm: Any) -> None:
    """An instruction and a text in the harness's one string give what ``llink translate`` reads."""
    found = lm._prompt(f"{TASKS['translate']}\n{A}")
    prompt = build(lm.engine.decoder, TASKS["translate"], slots=4)
    slots = lm.engine.slots([A], "km")[0]
    assert found.shape == (len(prompt.ids), 32)
    own = torch.tensor(prompt.ids) == SLOT
    torch.testing.assert_close(found[own], slots)
    torch.testing.assert_close(found[~own], lm.engine.decoder.embed(torch.tensor(prompt.ids)[~own]))
    [answer] = lm.generate_until([request(f"{TASKS['translate']}\n{A}", {"until": [], "max_gen_toks": 16})])
    assert answer == lm.engine.generate(A, "km", loop_guard=False, max_new_tokens=16)


@needs_harness
def test_loglikelihood_is_that_of_the_tokens(lm: Any) -> None:
    requests = [
        request(f"Q: {text}\nAnswer:", answer) for text in (A, f"{B} {C}") for answer in (" A", " the market", "")
    ]
    found = lm.loglikelihood(requests)
    decoder = lm.engine.decoder
    for one, (score, greedy) in zip(requests, found, strict=True):
        context, answer = one.args
        ids = decoder.tokenize(answer.strip())
        with lm.engine.using("km"), torch.inference_mode():
            embeds = torch.cat([lm._prompt(context), decoder.embed(torch.tensor(ids, dtype=torch.long))])[None]
            logits = decoder.model(inputs_embeds=embeds).logits[0, len(embeds[0]) - len(ids) - 1 : -1]
        expected = logits.log_softmax(-1)[torch.arange(len(ids)), ids].sum().item() if ids else 0
        assert score == pytest.approx(expected, abs=1e-3)
        assert greedy == (logits.argmax(-1).tolist() == ids)
    # What a text says reaches the answer.
    assert found[0][0] != pytest.approx(found[3][0], abs=1e-4)


@needs_harness
def test_raw_reads_the_characters(lm: Any, encoder_folder: str, decoder_folder: str) -> None:
    from llink_plugins.lm_eval import LlinkLM

    raw = LlinkLM(
        "km", None, encoder_folder, decoder_folder, raw=True, dtype="float32", device="cpu", batch_size="auto"
    )
    instruction = TASKS["translate"]
    prompt = build(raw.engine.decoder, instruction, text=A)
    torch.testing.assert_close(raw._prompt(f"{instruction}\n{A}"), raw.engine.decoder.embed(torch.tensor(prompt.ids)))
    assert raw.engine.languages == ()
    one = [request(f"{instruction}\n{A}", " the")]
    assert raw.loglikelihood(one)[0][0] != pytest.approx(lm.loglikelihood(one)[0][0], abs=1e-3)


@needs_harness
def test_stop_strings_and_order(lm: Any) -> None:
    contexts = [f"{TASKS['translate']}\n{s.foreign}" for s in SAMPLES[:5]]
    whole = lm.generate_until([request(c, {"until": "never", "max_gen_toks": 12, "temperature": 0}) for c in contexts])
    stop = next(text for text in whole if text)[1]
    cut = lm.generate_until([request(c, {"until": [stop], "max_gen_toks": 12}) for c in contexts])
    assert cut == [text.partition(stop)[0] for text in whole]
    assert cut != whole


@needs_harness
def test_long_passages_are_cut(lm: Any) -> None:
    words = " ".join([A.strip("។?")] * 60)  # one sentence, many times over
    pieces = lm._pieces(words)
    assert len(pieces) > 1
    assert "".join(pieces) == words
    limit = lm.engine.encoder.max_tokens
    assert max(lm.engine.encoder.count_tokens(pieces)) <= limit
    lm._prompt(words)


@needs_harness
def test_no_perplexity(lm: Any) -> None:
    with pytest.raises(LlinkError, match=r"\[E529\].*no perplexity"):
        lm.loglikelihood_rolling([request(A)])


@needs_harness
def test_a_task_from_the_command_line(
    tiny_adapter: Path, encoder_folder: str, decoder_folder: str, tmp_path: Path
) -> None:
    """Belebele in small, through the harness's own command."""
    rows = [
        {"passage": s.foreign, "question": SAMPLES[n + 1].foreign, "answer": n % 4} for n, s in enumerate(SAMPLES[:6])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "tiny_khm",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "P: {{passage}}\nQ: {{question}}\nA: yes\nB: no\nC: maybe\nD: never\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "tiny_khm.yaml").write_text(yaml.safe_dump(task))
    arguments = f"language=km,adapter={tiny_adapter},encoder={encoder_folder},decoder={decoder_folder},dtype=float32"
    result = subprocess.run(
        [sys.executable, "-m", "llink_plugins.lm_eval", "run", "--model", "llink", "--model_args", arguments, "--device", "cpu",
         "--tasks", "tiny_khm", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"),
         "--batch_size", "4"],
        capture_output=True, text=True, timeout=280, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert "|tiny_khm|" in result.stdout
    [path] = (tmp_path / "out").rglob("results_*.json")
    assert 0 <= json.loads(path.read_text())["results"]["tiny_khm"]["acc,none"] <= 1
