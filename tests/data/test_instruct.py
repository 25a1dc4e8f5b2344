"""Instruction data: asked, filtered, kept, read back, and trained on in place of self-distillation."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_server import Server
from click.testing import CliRunner, Result

from llink import LlinkError
from llink.adapter.files import read_manifest
from llink.adapter.prompt import TASKS, build
from llink.adapter.slots import answer_prompts
from llink.cli import main
from llink.data.instruct import (
    CUT,
    DISTILLED_TASKS,
    Author,
    Instruction,
    Question,
    fault,
    make,
    open_author,
    question,
    read_instructions,
    templates,
    write_instructions,
)
from llink.data.pairs import Pair, read_pairs
from llink.home import home
from llink.plugins import language
from llink.recipe import Data, validate
from llink.store.models import load_decoder
from llink.training.run import train, training_examples
from llink_khmer import SAMPLES

PAIRS = [Pair(s.english, s.foreign, "samples", "CC0-1.0") for s in SAMPLES]
TEXT = "The library opens at nine in the morning and closes when the last reader has gone home."


def test_every_task_has_phrasings_and_the_first_is_that_of_the_prompt() -> None:
    assert tuple(templates()) == DISTILLED_TASKS
    for task, phrasings in templates().items():
        assert phrasings[0] == TASKS[task]
        assert len(set(phrasings)) == len(phrasings) >= 3
    asked = [question(f"Text {n}.", DISTILLED_TASKS, 17) for n in range(400)]
    counts = Counter((q.task, q.instruction) for q in asked)
    assert set(counts) == {(task, phrasing) for task, all_of in templates().items() for phrasing in all_of}
    assert asked == [question(f"Text {n}.", DISTILLED_TASKS, 17) for n in range(400)]
    assert asked != [question(f"Text {n}.", DISTILLED_TASKS, 18) for n in range(400)]


@pytest.mark.parametrize(
    ("task", "answer", "why"),
    [
        ("summarize", "It says when the library opens and when it closes.", None),
        ("keypoints", "- It opens at nine.\n- It closes when the last reader has left.", None),
        ("title", "The library opens at nine", None),
        ("qa", "A library.", None),
        ("qa", "9", None),
        ("title", CUT, "unfinished"),
        ("title", " \n", "empty"),
        ("title", "…", "empty"),
        ("qa", "I'm sorry, but I can't say.", "refusals"),
        ("qa", "I’m sorry, but I can’t say.", "refusals"),
        ("qa", "As an AI I do not read.", "refusals"),
        ("qa", "I cannot see a text.", "refusals"),
        ("qa", "Please provide the text.", "refusals"),
        ("qa", "I can read at the library.", None),
        ("title", "ម៉ោងបើកបណ្ណាល័យ", "not English"),
        ("title", "Library ម៉ោងបើកបណ្ណាល័យ", "not English"),
        ("summarize", "It opens at nine. It opens at nine. It opens at nine.", "loops"),
        ("keypoints", "- a book and a pen\n- a pen and a book\n" * 6, "loops"),
        ("summarize", TEXT, "copies"),
        ("qa", f"The text says: {TEXT.lower()}", "copies"),
        ("qa", TASKS["qa"], "copies"),
        ("summarize", "A library.", "too short or too long"),
        ("title", "A title that goes on and on about every single thing that a library does in its day.",
         "too short or too long"),
    ],
)  # fmt: skip
def test_faults(task: str, answer: str, why: str | None) -> None:
    assert fault(Question(TEXT, task, TASKS[task]), answer) == why


class Stub(Author):
    """Says what a function says."""

    name, licence, signature = "stub", "CC-BY-4.0", "0" * 64

    def __init__(self, say: Any) -> None:
        self.say, self.asked = say, []  # type: ignore[var-annotated]

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        self.asked += questions
        return [self.say(q) for q in questions]


def test_rows_carry_where_they_are_from(tmp_path: Path) -> None:
    author = Stub(lambda q: "Something about a day." if q.task != "title" else "I am sorry.")
    made = make(author, [*PAIRS, PAIRS[0]], tmp_path)
    assert made.asked.total() == len(PAIRS) + 1 == len(made.rows) + sum(c.total() for c in made.left_out.values())
    assert made.left_out["title"] == {"refusals": made.asked["title"]}
    assert (
        sum(counts["duplicates"] for counts in made.left_out.values()) + (made.rows[0].english != PAIRS[0].english) == 1
    )
    assert len(author.asked) == len(PAIRS)  # one English string, one question
    for row in made.rows:
        assert row.instruction in templates()[row.task]
        assert (row.source, row.licence, row.model, row.model_licence) == ("samples", "CC0-1.0", "stub", "CC-BY-4.0")
        assert Pair(row.english, row.foreign, row.source, row.licence) in PAIRS
    make(author, PAIRS, tmp_path, tasks=["qa"])
    assert {q.task for q in author.asked[len(PAIRS) :]} == {"qa"}
    with pytest.raises(LlinkError, match=r"\[E501\].*'titel'.*Did you mean 'title'"):
        make(author, PAIRS, tmp_path, tasks=["titel"])


# From the command line.


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server(lambda _: "It is about daily life.")
    yield running
    running.close()


@pytest.fixture
def recipe(raw_recipe: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw_recipe))
    return path


def arguments(recipe: Path, data: Path, out: Path, *rest: str | Path) -> list[str]:
    return list(map(str, ("data", "instruct", "km", "--recipe", recipe, "--data", data, "--out", out, *rest)))


def run(*args: Any, status: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments(*args))
    assert result.exit_code == status, result.output
    return result


def rows_of(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_an_endpoint_answers(
    server: Server, recipe: Path, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLINK_MODEL_KEY", "secret")
    said = iter(
        ["<think>Hm.</think> A fine day.", "ថ្ងៃល្អ", {"message": {"content": "A day"}, "finish_reason": "length"}]
    )
    server.reply = lambda _: next(said, "It is about daily life.")
    out = tmp_path / "instruct.jsonl.gz"
    result = run(recipe, pairs_folder, out, "--model", f"{server.base}#big", "--model-licence", "MIT", "--task", "qa")
    train_rows = read_pairs("train.jsonl", pairs_folder).rows
    dev = {pair.english for pair in read_pairs("dev.jsonl", pairs_folder).rows}
    asked = len({pair.english for pair in train_rows if len(pair.english.split()) >= 2})
    assert len(server.requests) == asked
    assert set(server.keys) == {"Bearer secret"}
    body = server.requests[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0, 64)
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert not any(english in json.dumps(server.requests) for english in dev)
    rows = rows_of(out)
    assert len(rows) == asked - 2
    assert Counter(row["target"] for row in rows) == {"A fine day.": 1, "It is about daily life.": asked - 3}
    assert list(rows[0]) == [
        "foreign",
        "english",
        "task",
        "instruction",
        "target",
        "source",
        "licence",
        "model",
        "model_licence",
    ]
    assert {(r["source"], r["licence"], r["model"], r["model_licence"]) for r in rows} == {
        ("samples", "CC0-1.0", "big", "MIT")
    }
    assert f"{asked - 2} of {asked} answers by big (MIT)" in result.stdout
    assert "1 not English" in result.stdout
    assert "1 unfinished" in result.stdout
    # What people have is not overwritten; what was asked is not asked again.
    run(recipe, pairs_folder, out, status=1)
    again = tmp_path / "again.jsonl"
    run(recipe, pairs_folder, again, "--model", f"{server.base}#big", "--model-licence", "MIT", "--task", "qa")
    assert rows_of(again) == rows
    assert len(server.requests) == asked


def test_a_killed_run_goes_on(server: Server, recipe: Path, pairs_folder: Path, tmp_path: Path) -> None:
    out, answered = tmp_path / "instruct.jsonl", 16

    def slow(_: str) -> str:
        if len(server.requests) > answered:
            server.release.wait(60)
        return "It is about daily life."

    server.reply = slow
    command = [sys.executable, "-m", "llink", *arguments(recipe, pairs_folder, out, "--model", f"{server.base}#m")]
    victim = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    patience = time.monotonic() + 120
    while len(server.requests) <= answered and time.monotonic() < patience:
        time.sleep(0.01)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    assert not out.exists()
    [log] = (home() / "distilled").iterdir()
    kept = len(log.read_text().splitlines())
    assert kept == answered
    log.write_text(log.read_text() + '{"key": "half')
    server.reply = lambda _: "It is about daily life."
    time.sleep(0.1)
    before = len(server.requests)
    run(recipe, pairs_folder, out, "--model", f"{server.base}#m")
    texts = {pair.english for pair in read_pairs("train.jsonl", pairs_folder).rows}
    assert len(server.requests) - before == len(texts) - kept
    assert len(rows_of(out)) == len(read_pairs("train.jsonl", pairs_folder).rows)


def test_an_endpoint_that_cannot_be_asked(server: Server, recipe: Path, pairs_folder: Path, tmp_path: Path) -> None:
    server.reply = lambda _: 401
    out = tmp_path / "instruct.jsonl"
    result = run(recipe, pairs_folder, out, "--model", f"{server.base}#m", status=1)
    assert "[E526] The model http" in result.stderr
    assert "LLINK_MODEL_KEY, then run again: answers so far are kept." in result.stderr
    assert "[E526]" in run(recipe, pairs_folder, out, "--model", server.base, status=1).stderr
    server.reply = lambda _: "I'm sorry."
    result = run(recipe, pairs_folder, out, "--model", f"{server.base}#m", "--count", "5", status=1)
    assert "[E230] None of the 5 answers of m is of use." in result.stderr
    assert sum(int(n) for n in [w.split()[-2] for w in result.stdout.splitlines()[1:]]) == 5
    assert not out.exists()
    assert "[E501]" in run(recipe, pairs_folder, out, "--task", "x", status=1).stderr
    assert run(recipe, pairs_folder, tmp_path / "x.csv", status=2)


def test_the_frozen_decoder_answers(taught: Any, tmp_path: Path) -> None:
    """The tiny reader answers any question with the first three words of the text."""
    out = tmp_path / "instruct.jsonl"
    run(taught.folder / "recipe.yaml", taught.folder, out, "--device", "cpu", status=1)  # all of train is in dev
    recipe = yaml.safe_load((taught.folder / "recipe.yaml").read_text())
    recipe["data"]["dev"] = {}
    path = tmp_path / "no-dev.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run(path, taught.folder, out, "--device", "cpu", "--task", "title", "--task", "qa")
    rows = rows_of(out)
    assert rows
    decoder = load_decoder(recipe["decoder"]["name"], device="cpu", dtype="float32")
    for row in rows[:4]:
        [said] = answer_prompts(decoder, [build(decoder, row["instruction"], text=row["english"])], 64)
        assert row["target"] == said
        assert row["model"] == decoder.name
    assert open_author(recipe["decoder"]["name"], "MIT", "cpu").licence == "MIT"


# Reading, and training on it.

ROW = Instruction(
    PAIRS[0].foreign, PAIRS[0].english, "title", TASKS["title"], "A title", "samples", "CC0-1.0", "m", "MIT"
)


def test_files_are_read_back_and_broken_rows_counted(pairs_folder: Path, tmp_path: Path) -> None:
    dev = read_pairs("dev.jsonl", pairs_folder).rows[0]
    (tmp_path / "dev.jsonl").write_bytes((pairs_folder / "dev.jsonl").read_bytes())
    held = Instruction(dev.foreign, f" {dev.english} ", "qa", "What?", "That.")
    write_instructions(tmp_path / "a.jsonl.gz", [ROW, held, Instruction("ក" * 300, "Long.", "qa", "What?", "A.")])
    less = {"foreign": "ទឹក", "english": "Water", "task": "qa", "target": "Water."}
    lines = [
        less,
        {**less, "instruction": "How?", "task": "mine"},
        {**less, "task": "mine"},
        {**less, "target": " "},
        [],
        *({**less, "instruction": f"How {n}?"} for n in range(40)),
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{half")
    data = Data(train=[], dev={"dev": "dev.jsonl"}, instructions=["a.jsonl.gz", "b.jsonl"])
    rows, about = read_instructions(data, tmp_path, language("km").normalise)
    assert rows[0] == ROW
    assert [(row.task, row.instruction) for row in rows[1:3]] == [("qa", TASKS["qa"]), ("mine", "How?")]
    assert about == "43 instructions; left out: 4 broken, 1 in a dev set, 1 over 256 characters"
    lost = {**less, "foreign": "ទ\ufffdក"}
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, [*[less] * 8, lost])))
    with pytest.raises(LlinkError, match=r"\[E233\] 1 of 9 rows of d.jsonl.*first: d.jsonl:9"):
        read_instructions(Data(train=[], instructions=["d.jsonl"]), tmp_path, str)
    (tmp_path / "c.jsonl").write_text("{}\n")
    for name, code in (("c.jsonl", "E230"), ("none.jsonl", "E210")):
        with pytest.raises(LlinkError, match=code):
            read_instructions(Data(train=[], instructions=[name]), tmp_path, str)
    assert read_instructions(Data(train=[]), tmp_path, str) == ([], "0 instructions")


def test_a_recipe_trains_on_them(raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in pairs_folder.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    elsewhere = Instruction(
        "ទឹកត្រជាក់ណាស់", "The water is cold.", "qa", "What is cold?", "Water.", "books", "MIT", "m", "MIT"
    )
    write_instructions(data / "instruct.jsonl", [ROW] * 3 + [elsewhere] * 5)
    raw = {**raw_recipe, "data": {**raw_recipe["data"], "instructions": ["instruct.jsonl"]}}
    raw["stage_b"] = {**raw["stage_b"], "task_share": 0.5, "losses": {"self_distillation_kl": 0.1}}
    recipe = validate(raw, "x")
    adapter = train(recipe, stage="all", data=data, out=tmp_path / "run")
    assert not (home() / "distilled").exists()
    about = read_manifest(adapter).data
    assert about["instructions by m"] == {"examples": 8, "licence": "MIT"}
    assert about["books (instructions)"] == {"examples": 5, "licence": "MIT"}
    assert "| instructions by m | 8 examples | MIT |" in (adapter / "README.md").read_text()

    rows, _ = read_instructions(recipe.data, data, language("km").normalise)
    decoder = load_decoder(raw["decoder"]["name"], dtype="float32")
    examples = training_examples(recipe, decoder, PAIRS, None, rows)
    asked = Counter((e.task, e.instruction) for e in examples if e.task != "translate")
    assert set(asked) == {("title", TASKS["title"]), ("What is cold?", "What is cold?")}
    assert asked.total() == len(PAIRS)  # half of all


def test_sources_of_which_there_is_little_stand_among_the_examples_more_than_once(raw_recipe: dict[str, Any]) -> None:
    raw = {
        **raw_recipe,
        "data": {**raw_recipe["data"], "repeat": {"prose": 3}},
        "stage_b": {**raw_recipe["stage_b"], "distilled": 0},
    }
    recipe = validate(raw, "x")
    pairs = [Pair("Water is cold.", "ទឹកត្រជាក់", "prose"), Pair("Open the file.", "បើកឯកសារ", "strings")]
    decoder = load_decoder(raw["decoder"]["name"], dtype="float32")
    examples = training_examples(recipe, decoder, pairs, None)
    assert Counter(e.english for e in examples) == {"Water is cold.": 3, "Open the file.": 1}
