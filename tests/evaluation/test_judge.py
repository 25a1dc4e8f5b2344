"""The judge: calibrated, blind, in both orders, resumable; local ones and endpoints, good, bad and dead."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from chat_server import Server
from click.testing import CliRunner

from llink import Engine, LlinkError
from llink.adapter.prompt import TASKS
from llink.cli import main
from llink.data.pairs import Pair
from llink.evaluation.base import Skip, Subject
from llink.evaluation.judge import evaluator, named, opened
from llink.evaluation.judging import FIRST, SECOND, TIE, UNCLEAR, Comparison, Judge, ask, open_judge
from llink.evaluation.judging.duel import Duel, bootstrap, calibrate, duel, summary
from llink.evaluation.judging.endpoint import EndpointJudge, read
from llink.evaluation.judging.local import LocalJudge
from llink.features.cache import FeatureCache
from llink.home import home
from llink.plugins import language
from llink.store.models import load_decoder
from llink_khmer import SAMPLES

REFERENCES = [s.english for s in SAMPLES]
PAIRS = [Pair(s.english, s.foreign) for s in SAMPLES]
TRANSLATE = TASKS["translate"]


def parts(prompt: str) -> dict[str, str]:
    """What a prompt holds, as a reader sees it."""
    lines = prompt.splitlines()
    heads = {"What the text says, in English:": "reference", "Answer A:": "a", "Answer B:": "b"}
    return {heads[line]: lines[n + 1] for n, line in enumerate(lines) if line in heads}


def honest(prompt: str) -> str:
    """Prefers the answer that shares more words with the reference."""
    shown = {name: set(text.lower().split()) for name, text in parts(prompt).items()}
    a, b = (len(shown["reference"] & shown[name]) / len(shown["reference"] | shown[name]) for name in "ab")
    return "tie" if a == b else "A" if a > b else "B"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server(honest)
    yield running
    running.close()


def judge_at(server: Server, **options: Any) -> EndpointJudge:
    return EndpointJudge(server.base, "m", **{"timeout": 5, "waits": (0, 0), **options})


def comparisons(count: int) -> list[Comparison]:
    return [Comparison(TRANSLATE, r, r, "nothing of it") for r in REFERENCES[:count]]


def test_the_prompt_says_all_of_it_and_not_whose() -> None:
    one = Comparison("Do $this.", "The reference.", "first\nanswer $a", "")
    assert parts(one.prompt) == {"reference": "The reference.", "a": "first answer $a", "b": "(nothing)"}
    assert "Do $this." in one.prompt
    assert one.prompt.endswith("A, B or tie.")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", FIRST), (" b.", SECOND), ("**Tie**", TIE), ("Answer: B", SECOND), ("answer a is better", FIRST),
        ("<think>B? No.</think>\nA", FIRST), ("Both are fine", UNCLEAR), ("", UNCLEAR), ("Absolutely B", UNCLEAR),
    ],
)  # fmt: skip
def test_replies_are_read_strictly(reply: str, verdict: str) -> None:
    assert read(reply) == verdict


def test_duels_count_both_orders() -> None:
    wanted = {
        (FIRST, SECOND): 1, (SECOND, FIRST): 0, (FIRST, FIRST): 0.5, (SECOND, SECOND): 0.5, (TIE, TIE): 0.5,
        (TIE, SECOND): 1, (FIRST, TIE): 1, (TIE, FIRST): 0, (SECOND, TIE): 0, (UNCLEAR, SECOND): None,
        (FIRST, UNCLEAR): None,
    }  # fmt: skip
    assert {orders: Duel(*orders).score for orders in wanted} == wanted


def test_summary() -> None:
    duels = [Duel(FIRST, SECOND)] * 6 + [Duel(SECOND, FIRST)] * 2 + [Duel(FIRST, FIRST), Duel(UNCLEAR, FIRST)]
    found = summary(duels)
    assert found["preference"] == pytest.approx(6.5 / 9)
    assert (found["wins"], found["ties"], found["losses"]) == pytest.approx((6 / 9, 1 / 9, 2 / 9))
    assert found["unclear"] == pytest.approx(0.1)
    assert found["order decides"] == pytest.approx(1 / 9)
    # 8 + 2 + 1 verdicts named the first answer, of 19.
    assert found["position bias"] == pytest.approx(11 / 19 - 0.5)
    assert found["low"] < found["preference"] < found["high"]
    assert summary(duels) == found
    assert summary(duels, seed=18)["low"] == pytest.approx(found["low"], abs=0.12)
    assert summary([Duel(UNCLEAR, TIE)]) == {"unclear": 1.0}
    assert summary([Duel(TIE, TIE)])["position bias"] == 0


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for seed in range(200):
        sample = (torch.rand(60, generator=generator) < 0.6).double().tolist()
        low, high = bootstrap(sample, seed=seed, resamples=1000)
        hits += low <= 0.6 <= high
    assert 178 <= hits <= 200


def test_a_good_judge_is_taken_and_prefers_the_better(server: Server, tmp_path: Path) -> None:
    judge = judge_at(server, key="secret")
    assert calibrate(judge, TRANSLATE, REFERENCES, tmp_path) == 1
    assert len(server.requests) == 40
    body = server.requests[0]
    assert (body["model"], body["temperature"], len(body["messages"])) == ("m", 0, 2)
    assert set(server.keys) == {"Bearer secret"}
    # Half of the trials show the reference first.
    shown = Counter(parts(r["messages"][-1]["content"])["a"] == parts(r["messages"][-1]["content"])["reference"]
                    for r in server.requests)  # fmt: skip
    assert shown == {True: 20, False: 20}
    rows = REFERENCES[:6]
    better = summary(duel(judge, TRANSLATE, rows, rows, ["no"] * 6, tmp_path))
    assert (better["preference"], better["position bias"]) == (1, 0)
    assert summary(duel(judge, TRANSLATE, rows, ["no"] * 6, rows, tmp_path))["preference"] == 0


def test_a_judge_that_likes_what_was_left_untranslated_is_refused(server: Server, tmp_path: Path) -> None:
    sources = [s.foreign for s in SAMPLES]
    assert calibrate(judge_at(server), TRANSLATE, REFERENCES, tmp_path, sources=sources) == 1
    halves = [parts(r["messages"][-1]["content"]) for r in server.requests[40:]]
    assert len(halves) == len(SAMPLES)
    assert all({p["a"], p["b"]} & set(sources) and p["reference"] in REFERENCES for p in halves)

    def copies(prompt: str) -> str:
        shown = parts(prompt)
        return next((name.upper() for name in "ab" if shown[name] in sources), honest(prompt))

    server.reply = copies
    with pytest.raises(LlinkError, match=r"\[E525\] .* told half a reference from the text left as it was in 0%"):
        calibrate(judge_at(server), TRANSLATE, REFERENCES, tmp_path / "anew", sources=sources)


@pytest.mark.parametrize("reply", ["A", "tie", "I cannot say.", ""])
def test_a_judge_that_cannot_tell_is_refused(server: Server, tmp_path: Path, reply: str) -> None:
    server.reply = lambda _: reply
    with pytest.raises(
        LlinkError, match=r"^\[E525\] The judge http.*#m told a reference .* of 40 trials .*80%"
    ) as error:
        calibrate(judge_at(server), TRANSLATE, REFERENCES, tmp_path)
    assert "\n" not in str(error.value)


def test_a_judge_needs_something_to_be_tried_on(server: Server, tmp_path: Path) -> None:
    with pytest.raises(LlinkError, match=r"\[E525\].*two different"):
        calibrate(judge_at(server), TRANSLATE, ["One.", " One. "], tmp_path)
    assert calibrate(judge_at(server), TRANSLATE, ["One cat.", "Two dogs."], tmp_path) == 1
    assert len(server.requests) == 2


def test_verdicts_are_kept(server: Server, tmp_path: Path) -> None:
    rows = comparisons(12)
    dies_at = 10

    def mortal(prompt: str) -> str | int:
        return honest(prompt) if len(server.requests) < dies_at else 400

    server.reply = mortal
    with pytest.raises(LlinkError, match=r"\[E526\].*status 400 .*as asked.*run again"):
        ask(judge_at(server), rows, tmp_path)
    [log] = tmp_path.glob("*.jsonl")
    assert len(log.read_text().splitlines()) == 8
    log.write_text(log.read_text() + '{"key": "half')
    server.reply = honest
    before = len(server.requests)
    assert ask(judge_at(server), rows, tmp_path) == [FIRST] * 12
    assert len(server.requests) - before == 4
    assert ask(judge_at(server), rows, tmp_path) == [FIRST] * 12
    assert len(server.requests) - before == 4
    # Another judge has its own.
    assert ask(judge_at(server, timeout=4), rows[:1], tmp_path) == [FIRST]
    ask(EndpointJudge(server.base, "other"), rows[:1], tmp_path)
    assert len(server.requests) - before == 5


def test_equal_answers_are_not_asked_about(server: Server, tmp_path: Path) -> None:
    assert duel(judge_at(server), TRANSLATE, ["x"], ["same words"], ["same  words "], tmp_path) == [Duel(TIE, TIE)]
    assert server.requests == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_judge_is_asked_again(server: Server, status: int) -> None:
    server.reply = lambda prompt: status if len(server.requests) < 3 else honest(prompt)
    assert judge_at(server).verdicts(comparisons(1)) == [FIRST]
    assert len(server.requests) == 3


def test_a_judge_that_does_not_answer(server: Server) -> None:
    def slow(prompt: str) -> str:
        server.release.wait(20)
        return "A"

    server.reply = slow
    with pytest.raises(LlinkError, match=r"\[E526\] The judge .*#m cannot be asked: no reply within 0.1 s\. "):
        judge_at(server, timeout=0.1, waits=(0,)).verdicts(comparisons(1))
    assert len(server.requests) == 2


def test_a_judge_that_is_no_endpoint(server: Server) -> None:
    for raw in (b"<html>", b"[]", b'{"choices": []}', b"null"):
        server.raw = raw
        with pytest.raises(LlinkError, match=r"\[E526\].*not a chat endpoint's reply"):
            judge_at(server, waits=()).verdicts(comparisons(1))
    server.close()
    with pytest.raises(LlinkError, match=r"\[E526\].*refused"):
        judge_at(server, waits=(0,)).verdicts(comparisons(1))


def test_judges_by_name(models: Callable[[str], str]) -> None:
    judge: Any = open_judge("http://localhost:1/v1/#some/model")
    assert (judge.base, judge.model, judge.key) == ("http://localhost:1/v1", "some/model", "")
    assert isinstance(open_judge(models("qwen2"), device="cpu"), LocalJudge)
    with pytest.raises(LlinkError, match=r"\[E526\].*names no model"):
        open_judge("https://localhost/v1")
    with pytest.raises(LlinkError, match=r"\[E101\].*Did you mean 'qwen2.5-coder-1.5b-instruct'"):
        open_judge("qwen2.5-coder-1.5b")


def test_a_local_verdict_is_the_likeliest_of_the_three_in_both_orders(models: Callable[[str], str]) -> None:
    decoder: Any = load_decoder(models("qwen2"), dtype="float32")
    judge = LocalJudge(decoder)
    rows = [Comparison(TRANSLATE, r, "x" * n, r) for n, r in enumerate(REFERENCES[:20])]
    found = judge.verdicts(rows)
    words = [decoder.tokenize(word)[0] for word in ("A", "B", "tie")]

    def scores(shown: Comparison) -> list[float]:
        messages = [{"role": "system", "content": "You are a careful and fair judge of answers."},
                    {"role": "user", "content": shown.prompt}]  # fmt: skip
        ids = decoder.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        with torch.inference_mode():
            return list(decoder.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[words].tolist())

    turned = [Comparison(row.instruction, row.reference, row.second, row.first) for row in rows]
    for row, other, verdict in zip(rows, turned, found, strict=True):
        (a, b, tie), (b2, a2, tie2) = scores(row), scores(other)
        best = max({"A": a + a2, "B": b + b2, "tie": tie + tie2}.items(), key=lambda item: item[1])
        assert verdict == best[0]
    # Whichever is shown first.
    assert judge.verdicts(turned) == [{"A": "B", "B": "A"}.get(verdict, verdict) for verdict in found]
    assert judge.verdicts([Comparison(TRANSLATE, "x", "same", "same")]) == [TIE]
    with torch.no_grad():
        decoder.model.model.norm.weight.fill_(float("nan"))
    assert set(judge.verdicts(rows[:2])) == {UNCLEAR}


def test_a_random_local_model_is_refused(models: Callable[[str], str], tmp_path: Path) -> None:
    judge = open_judge(models("qwen2"), device="cpu")
    with pytest.raises(LlinkError, match=r"\[E525\] The judge qwen2 told"):
        calibrate(judge, TRANSLATE, REFERENCES, tmp_path)


@pytest.fixture
def subject(tiny_adapter: Path, encoder_folder: str, decoder_folder: str) -> Iterator[Subject]:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", tiny_adapter)
    cache = FeatureCache(home() / "features", engine.encoder)
    yield Subject(engine, language("km"), cache, (encoder_folder, decoder_folder), 4, against=("raw", "english"))
    engine.close()
    opened.cache_clear()


def measured(subject: Subject) -> Any:
    return evaluator(subject, evaluator.sets(subject, {"dev": PAIRS})["dev"])


def test_the_suite(subject: Subject, server: Server) -> None:
    subject.judge = f"{server.base}#m"
    result = measured(subject)
    metrics = result.metrics
    assert (metrics["pairs"], metrics["calibration"]) == (4, 1)
    assert metrics[evaluator.primary_metric] == pytest.approx(metrics["wins over raw"] + metrics["ties over raw"] / 2)
    assert metrics["preference over raw low"] <= metrics["preference over raw"] <= metrics["preference over raw high"]
    assert result.notes == {"judge": subject.judge}
    assert [row["english"] for row in result.predictions] == [p.english for p in PAIRS[:4]]
    for row in result.predictions:
        assert {"answer", "raw", "verdicts on raw"} <= set(row)
    # Whose an answer is, the judge is not told.
    for request in server.requests:
        assert not {"raw", "llink", "baseline", "adapter"} & set(json.dumps(request).lower().split())


class Recorder(Judge):
    """Prefers whatever holds a word."""

    name = signature = "recorder"

    def __init__(self, word: str) -> None:
        self.word = word

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[str]:
        return [FIRST if self.word in c.first else SECOND if self.word in c.second else TIE for c in comparisons]


def test_a_word_that_one_side_has_decides(tmp_path: Path) -> None:
    found = duel(
        Recorder("cat"), TRANSLATE, ["r"] * 3, ["a cat", "a dog", "cats"], ["a dog", "a cat", "dogs"], tmp_path
    )
    assert [one.score for one in found] == [1, 0, 1]


def test_the_suite_is_skipped_with_a_reason(subject: Subject, server: Server) -> None:
    with pytest.raises(Skip, match="no judge model was given"):
        measured(subject)
    subject.judge = f"{server.base}#m"
    server.reply = lambda _: "what?"
    with pytest.raises(Skip, match=r"^\[E525\].*unclear 12"):
        measured(subject)
    server.reply = lambda _: 404
    subject.judge = f"{server.base}#gone"
    with pytest.raises(Skip, match=r"^\[E526\].*status 404"):
        measured(subject)
    subject.against = ("english",)
    with pytest.raises(Skip, match="no baseline to compare with"):
        measured(subject)


def test_from_the_command_line(
    server: Server, tiny_adapter: Path, raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(raw_recipe))

    def run(*judge: str) -> Any:
        arguments = ("eval", "km", "--suite", "judge", "--adapter", tiny_adapter, "--recipe", recipe,
                     "--data", pairs_folder, "--out", out, *judge)  # fmt: skip
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        opened.cache_clear()
        return result

    assert "skipped: judge: no judge model was given (--judge)\n" in run().stderr
    result = run("--judge", f"{server.base}#m")
    assert "preference over raw" in result.stdout
    asked = len(server.requests)
    assert run("--judge", f"{server.base}#m").stdout == result.stdout
    assert len(server.requests) == asked
    server.reply = lambda _: "As a language model, I cannot."
    found = run("--judge", f"{server.base}#other").stderr.splitlines()
    assert [line for line in found if "E525" in line] == [
        line for line in found if line.startswith("skipped: judge, dev:")
    ]
    assert len(server.requests) > asked


def test_names_of_the_metrics() -> None:
    assert [named(name, "raw") for name in ("preference", "low", "unclear")] == [
        "preference over raw", "preference over raw low", "unclear (raw)",
    ]  # fmt: skip
