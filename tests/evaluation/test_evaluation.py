"""``llink eval`` on a tiny pair that knows its sentences by heart: what is whole scores well, what is broken does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from taught import BROKEN, Taught, amharic, pairs
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from variants import rehash

from llink import Engine, plugins
from llink.adapter.files import read_manifest
from llink.adapter.lora_files import LORA
from llink.cli import main
from llink.data.pairs import Pair, write_pairs
from llink.evaluation import SUITES, evaluator
from llink.evaluation.base import Subject, whole
from llink.evaluation.tokens import prefill_flops
from llink.evaluation.translate import copied, loops
from llink.evaluation.usage import IGNORED
from llink.features.cache import FeatureCache
from llink.home import home
from llink.store.models import load_decoder
from llink.training.examples import Example
from llink.training.shapes import Shape
from llink.training.stage_b import dev_losses
from llink_khmer import SAMPLES

METRICS = "metrics.json"


def llink(*args: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def numbers(folder: Path) -> dict[str, Any]:
    return json.loads((folder / METRICS).read_text("utf-8"))["results"]


def untimed(results: dict[str, Any]) -> dict[str, Any]:
    """Without what is measured with a clock."""
    tokens = {name: {k: v for k, v in values.items() if "time" not in k} for name, values in results["tokens"].items()}
    return {**results, "tokens": tokens}


@pytest.fixture
def subject(taught: Taught) -> Subject:
    names = taught.recipe.encoder.name, taught.recipe.decoder.name
    engine = Engine.load(*names, device="cpu", dtype="float32")
    engine.add("km", taught.adapter)
    return Subject(engine, plugins.language("km"), FeatureCache(home() / "features", engine.encoder), names)


MEASURED = tuple(suite for suite in SUITES if suite != "judge")
"""Without a judge model that suite is skipped."""


def test_what_is_learnt_by_heart_scores_full(evaluated: Path) -> None:
    found = numbers(evaluated)
    assert tuple(found) == MEASURED
    values = {suite: found[suite]["dev"] for suite in MEASURED}
    assert values["retrieval"]["r1"] == values["retrieval"]["back_r1"] == 1
    assert values["retrieval"]["chance"] == 1 / 20
    assert values["retrieval"]["r1"] > values["retrieval"]["bare encoder r1"]
    assert values["usage"]["usage_gap"] > 1
    assert values["usage"]["shuffle_gap"] > 1
    assert values["translate"]["chrf++"] > 90 > values["translate"]["chrf++ english"]
    assert values["translate"]["chrf++"] > 3 * values["translate"]["chrf++ raw"]
    assert values["translate"]["length ratio"] == pytest.approx(1, abs=0.1)
    assert values["exact"]["exact"] > 0.9 > values["exact"]["exact raw"]
    assert values["tasks"]["agreement"] > 0.8 > 0.3 > values["tasks"]["agreement raw"]
    assert values["tasks"]["similarity"] > 0.8
    assert values["long"]["recall sentence by sentence"] == 1
    assert values["english"]["identical"] == 1
    assert values["tokens"]["prompt tokens"] < values["tokens"]["prompt tokens raw"]


def test_every_suite_has_its_primary_metric_and_examples(evaluated: Path) -> None:
    found = numbers(evaluated)
    for suite in MEASURED:
        for name, values in found[suite].items():
            assert evaluator(suite).name == suite
            assert evaluator(suite).primary_metric in values
            lines = (evaluated / suite / name / "predictions.jsonl").read_text("utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            assert rows
            assert all(row["scores"] and row["foreign"] for row in rows)
            assert len({row["id"] for row in rows}) == len(rows)
            assert evaluator(suite).lower <= set(rows[0]["scores"]) | {"prompt tokens"}


def test_parts_and_positions(evaluated: Path) -> None:
    found = numbers(evaluated)
    assert found["retrieval"]["dev"]["r1 [template]"] == found["retrieval"]["dev"]["r1 [samples]"] == 1
    assert {f"usage_gap [token {n:02}]" for n in range(1, 17)} <= set(found["usage"]["dev"])
    assert {f"exact [{kind}]" for kind in ("numbers", "units", "dates", "urls")} <= set(found["exact"]["templates"])
    assert "agreement [qa]" in found["tasks"]["dev"]
    assert not any("[" in name for name in whole(found["usage"]["dev"]))


@pytest.fixture(scope="session")
def broken(taught: Taught, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The numbers of each broken adapter; of the one with the wrong name on it, on texts of that language."""
    folder = tmp_path_factory.mktemp("broken")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(taught.folder / "home"))
        for how in BROKEN:
            adapter, out = taught.broken(how, folder), folder / f"{how} out"
            own = (
                taught.eval("am", adapter, taught.folder / "am.jsonl")
                if "language" in how
                else taught.eval("km", adapter)
            )
            done = llink(*own, "--limit", "20", "--out", out, "--against", "none")
            assert done.exit_code == 0, done.output
            found[how] = json.loads((out / METRICS).read_text())
    return found


@pytest.mark.parametrize("how", BROKEN)
def test_broken_adapter_scores_near_chance(broken: dict[str, dict[str, Any]], how: str) -> None:
    found = broken[how]["results"]
    [(retrieval, usage, translate, tasks)] = zip(
        *(found[suite].values() for suite in ("retrieval", "usage", "translate", "tasks")), strict=True
    )
    assert retrieval["r1"] < 3.5 * retrieval["chance"]  # of 20 texts, up to three by luck
    assert retrieval["mean_rank"] > 5
    assert min(usage["usage_gap"], usage["shuffle_gap"]) < 0.1
    assert translate["chrf++"] < 25
    # A decoder that says one and the same thing about every text is right about a few.
    assert all(values["exact"] <= 0.15 for values in found["exact"].values())
    assert tasks["agreement"] < 0.35
    assert tasks["similarity"] < 0.35
    [long] = found["long"].values()
    assert max(long["recall"], long["recall sentence by sentence"]) < 0.75  # of 20 by chance half, at most
    assert long["chrf++"] < long["chrf++ chance"] + 8


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("random bridge", "Slot ignored"),
        ("zero slots", "Content ignored"),
        *((how, "near chance") for how in BROKEN),
    ],
)
def test_what_is_broken_is_named(broken: dict[str, dict[str, Any]], how: str, says: str) -> None:
    assert any(says in warning for warning in broken[how]["warnings"]), broken[how]["warnings"]


def test_another_languages_adapter_is_called_what_its_numbers_say(broken: dict[str, dict[str, Any]]) -> None:
    found = broken["swapped language"]
    [usage] = found["results"]["usage"].values()
    # Its slots are worth about as much as decides between the two: on which side it falls differs between machines.
    says = "Slot ignored" if usage["usage_gap"] < IGNORED else "Content ignored"
    assert any(says in warning for warning in found["warnings"]), found["warnings"]


def test_whole_adapter_has_no_warning_but_of_pages_it_has_never_seen(evaluated: Path) -> None:
    [warning] = json.loads((evaluated / METRICS).read_text())["warnings"]
    assert warning.startswith("long, dev: Pages are not read: recall 0.")


def test_usage_is_the_loss_that_training_reports(evaluated: Path, subject: Subject) -> None:
    rows = pairs()
    subject.cache.ensure([p.foreign for p in rows])
    with subject.engine.using("km"):
        examples = [Example(p.foreign, "translate", p.english, p.english) for p in rows]
        bridge = subject.engine.resident("km").bridge
        expected = dev_losses(bridge, subject.engine.decoder, subject.cache, examples)
    found = numbers(evaluated)["usage"]["dev"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.02)


def test_another_languages_slots(taught: Taught, tmp_path: Path) -> None:
    manifest = read_manifest(taught.adapter)
    place = home() / "adapters" / "am" / f"{manifest.encoder}--{manifest.decoder}"
    place.parent.mkdir(parents=True)
    shutil.copytree(taught.broken("random bridge", tmp_path), place)
    rehash(place, "am")
    done = llink(*taught.eval("km"), "--suite", "usage", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = numbers(tmp_path / "out")["usage"]["dev"]
    assert found["gap to slots of am"] > 1


def test_english_is_harmed_only_while_the_adapter_is_active(taught: Taught, subject: Subject, tmp_path: Path) -> None:
    before = evaluator("english")(subject, pairs()).metrics
    copy = Path(shutil.copytree(taught.adapter, tmp_path / "shaken"))
    draw = torch.Generator().manual_seed(1)
    shaken = {
        k: (v + 0.5 * torch.randn(v.shape, generator=draw)).to(v.dtype) for k, v in load_file(copy / LORA).items()
    }
    save_file(shaken, copy / LORA, metadata={"format": "pt"})
    rehash(copy)
    subject.engine.add("km", copy)
    after = evaluator("english")(subject, pairs())
    assert after.metrics["identical"] == 1
    assert after.metrics["perplexity"] == before["perplexity"]
    assert after.metrics["perplexity change"] > max(before["perplexity change"], 0.1)
    assert "more surprising" in after.warnings[0]


def test_decoder_that_was_changed_is_noticed(subject: Subject) -> None:
    with torch.no_grad():
        next(iter(subject.engine.decoder.model.parameters())).mul_(1.001)
    found = evaluator("english")(subject, pairs())
    assert found.metrics["identical"] == 0
    assert found.metrics["largest difference"] > 0
    assert "not the one that was loaded" in found.warnings[0]


def test_flops_are_those_that_torch_counts(subject: Subject) -> None:
    model: Any = subject.engine.decoder.model
    for tokens in (2, 40):
        # The counter knows the plain matrix products of attention, not the CPU's own kernel for it.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
            model(input_ids=torch.arange(tokens)[None], logits_to_keep=1)
        assert prefill_flops(Shape.of(model), tokens) == counter.get_total_flops()


@pytest.fixture
def same_home(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    """The feature cache of ``evaluated``: features are kept in bfloat16, and differ by a bit with their batch."""
    monkeypatch.setenv("LLINK_HOME", str(taught.folder / "home"))


def test_taken_up_where_it_was_killed(taught: Taught, evaluated: Path, tmp_path: Path, same_home: None) -> None:
    """A suite that had not ended, and one whose file the kill cut off, are measured; the rest is not touched."""
    out = Path(shutil.copytree(evaluated, tmp_path / "out"))
    (out / METRICS).unlink()
    shutil.rmtree(out / "usage")
    (out / "retrieval" / "dev" / METRICS).write_text('{"key": "')
    marks = {suite: (out / suite / "dev" / METRICS).stat().st_mtime_ns for suite in ("translate", "tasks", "tokens")}
    done = llink(*taught.eval("km"), "--limit", "20", "--out", out)
    assert done.exit_code == 0, done.output
    assert numbers(out)["tokens"] == numbers(evaluated)["tokens"]
    assert numbers(out) == numbers(evaluated)
    assert marks == {suite: (out / suite / "dev" / METRICS).stat().st_mtime_ns for suite in marks}


def test_same_numbers_twice(taught: Taught, evaluated: Path, tmp_path: Path, same_home: None) -> None:
    out = Path(shutil.copytree(evaluated, tmp_path / "out"))
    assert llink(*taught.eval("km"), "--limit", "20", "--out", out, "--fresh").exit_code == 0
    assert (out / "translate" / "dev" / METRICS).stat().st_mtime > (evaluated / METRICS).stat().st_mtime
    assert untimed(numbers(out)) == untimed(numbers(evaluated))


def test_same_numbers_in_another_home(taught: Taught, evaluated: Path, tmp_path: Path) -> None:
    """All is encoded and asked again; all is the same but for bfloat16, which moves two of twenty texts at most."""
    assert llink(*taught.eval("km"), "--limit", "20", "--out", tmp_path / "out").exit_code == 0
    again = untimed(numbers(tmp_path / "out"))
    for suite, sets in untimed(numbers(evaluated)).items():
        for name, values in sets.items():
            assert again[suite][name] == pytest.approx(values, rel=0.05, abs=0.11)


def test_other_settings_are_measured_anew(taught: Taught, evaluated: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(evaluated, tmp_path / "out"))
    assert llink(*taught.eval("km"), "--suite", "retrieval", "--limit", "7", "--out", out).exit_code == 0
    assert numbers(out)["retrieval"]["dev"]["candidates"] == 7
    adapter = taught.broken("random bridge", tmp_path)
    assert llink(*taught.eval("km", adapter), "--suite", "retrieval", "--limit", "20", "--out", out).exit_code == 0
    assert numbers(out)["retrieval"]["dev"]["r1"] < 1


def test_suites_of_one_evaluation_come_together(taught: Taught, tmp_path: Path) -> None:
    def suites(*args: str) -> list[str]:
        assert llink(*taught.eval("km"), *args, "--out", tmp_path / "out").exit_code == 0
        return list(numbers(tmp_path / "out"))

    assert suites("--suite", "retrieval", "--limit", "9") == ["retrieval"]
    assert suites("--suite", "usage", "--limit", "9") == ["retrieval", "usage"]
    assert suites("--suite", "retrieval", "--limit", "8") == ["retrieval"]  # the losses were another evaluation's


def test_samples_stand_in_for_dev_data(taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLINK_DATA", raising=False)
    args = [
        "eval",
        "km",
        "--recipe",
        taught.folder / "recipe.yaml",
        "--adapter",
        taught.adapter,
        "--suite",
        "retrieval",
    ]
    done = llink(*args, "--out", tmp_path / "out", "--against", "none")
    assert done.exit_code == 0, done.output
    assert f"measured on its {len(SAMPLES)} samples" in done.stderr
    assert numbers(tmp_path / "out")["retrieval"]["samples"]["candidates"] == len(SAMPLES)
    missing = llink(*args, "--data", tmp_path / "nowhere")
    assert missing.exit_code == 1
    assert "[E210]" in missing.stderr


def test_no_dev_data_and_no_samples(taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from llink import LlinkError
    from llink.evaluation.run import measure

    silent = dataclasses.replace(plugins.language("km"), samples=())
    with pytest.raises(LlinkError, match=r"\[E520\]"):
        measure(silent, ["retrieval"], recipe=taught.recipe, data=tmp_path, adapter=taught.adapter, samples=True)


def test_one_pair(taught: Taught, tmp_path: Path) -> None:
    write_pairs(tmp_path / "one.jsonl", pairs()[:1])
    done = llink(
        *taught.eval("km", data=tmp_path / "one.jsonl"), "--suite", "retrieval,usage,translate", "--out", tmp_path
    )
    assert done.exit_code == 0, done.output
    assert "skipped: retrieval, one: one text has nothing to be told from" in done.stderr
    found = numbers(tmp_path)
    assert "shuffled" not in found["usage"]["one"]
    assert found["translate"]["one"]["chrf++"] > 90


def test_broken_data(taught: Taught, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"english": "x"}\nnot json\n')
    done = llink(*taught.eval("km", data=tmp_path / "bad.jsonl"), "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "[E211]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_text_that_the_engine_cannot_take_is_an_empty_answer(subject: Subject) -> None:
    rows = [pairs()[0], Pair("OK", "OK"), Pair("Long", pairs()[1].foreign * 2000)]
    found = evaluator("translate")(subject, rows)
    assert [row["answer"] == "" for row in found.predictions] == [False, True, True]
    assert found.metrics["empty"] == pytest.approx(2 / 3)
    assert "67% of the answers are empty." in found.warnings


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--suite", "usge"], "E506", "Did you mean 'usage'?"),
        (["--against", "rav"], "E506", "Did you mean 'raw'?"),
        (["--against", "raw=somewhere"], "E506", "Available: cascade, direct-lora, encoder, english, raw."),
        (["--against", "direct-lora=nowhere"], "E527", "nowhere"),
        (["--check"], "E524", "expects nothing"),
    ],
)
def test_what_a_user_mistypes(taught: Taught, tmp_path: Path, args: list[str], code: str, says: str) -> None:
    done = llink(*taught.eval("km"), *args, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert f"[{code}]" in done.stderr
    assert says in done.stderr
    assert not (tmp_path / "out").exists()


def test_direct_lora_beside_it(taught: Taught, tmp_path: Path) -> None:
    raw = json.loads((taught.folder / "recipe.yaml").read_text())
    raw["data"]["dev"] = {}
    raw["stage_b"].update(examples=20, distilled=0)
    (tmp_path / "train.yaml").write_text(json.dumps(raw))
    trained = llink("train", "km", "--recipe", tmp_path / "train.yaml", "--data", taught.folder,
                    "--baseline", "direct-lora", "--out", tmp_path / "lora")  # fmt: skip
    assert trained.exit_code == 0, trained.output
    [folder] = {path.parent for path in (tmp_path / "lora").rglob("adapter_config.json")}
    done = llink(*taught.eval("km"), "--suite", "retrieval,translate,tasks", "--against", f"direct-lora={folder}",
                 "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = numbers(tmp_path / "out")
    assert found["retrieval"]["dev"]["r1 of 20"] == 1 > found["retrieval"]["dev"]["r1 of 20 direct-lora"]
    assert found["translate"]["dev"]["chrf++"] > found["translate"]["dev"]["chrf++ direct-lora"]
    assert "agreement direct-lora" in found["tasks"]["dev"]
    assert "bare encoder r1" not in found["retrieval"]["dev"]


def expecting(taught: Taught, folder: Path, **expect: str) -> list[str]:
    raw = {**json.loads((taught.folder / "recipe.yaml").read_text()), "expect": expect}
    (folder / "gated.yaml").write_text(json.dumps(raw))
    return ["eval", "km", "--recipe", str(folder / "gated.yaml"), "--data", str(taught.folder),
            "--adapter", str(taught.adapter), "--suite", "retrieval,usage", "--out", str(folder / "out"), "--check"]  # fmt: skip


def test_gates(taught: Taught, tmp_path: Path) -> None:
    good = {
        "retrieval.r1": ">=0.6",
        "usage.dev.usage_gap": "> 0.5",
        "retrieval.mean_rank": "<= 2",
        "translate.chrf++": ">99",
    }
    done = llink(*expecting(taught, tmp_path, **good))
    assert done.exit_code == 0, done.output  # translate was not asked for
    done = llink(
        *expecting(taught, tmp_path, **good, **{"retrieval.dev.r1": "<0.5", "usage.right": ">=9", "usage.x.y": ">1"})
    )
    assert done.exit_code == 1
    assert "[E524] 3 not as expected" in done.stderr
    assert "retrieval.dev.r1 is 1.000, expected <0.5" in done.stderr
    assert "usage.dev.right is 0." in done.stderr
    assert "usage.x.y was not measured" in done.stderr
    assert "retrieval" in done.stdout  # the numbers are there all the same


@pytest.mark.parametrize(
    ("expect", "says"),
    [({"retrieval.r1": "high"}, "expect"), ({"r1": ">=0.6"}, "expect"), ({"retreival.r1": ">=0.6"}, "'retrieval'")],
)
def test_gate_that_says_nothing(taught: Taught, tmp_path: Path, expect: dict[str, str], says: str) -> None:
    done = llink(*expecting(taught, tmp_path, **expect))
    assert done.exit_code == 1
    assert "[E202]" in done.stderr
    assert says in done.stderr


def test_record(taught: Taught, evaluated: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(taught.adapter, tmp_path / "pair@mine"))
    done = llink(*taught.eval("km", adapter), "--suite", "retrieval,usage", "--record", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    metrics = read_manifest(adapter).metrics
    assert metrics["retrieval"]["dev"]["r1"] == 1
    assert not any("[" in name for name in metrics["usage"]["dev"])
    text = (adapter / "README.md").read_text("utf-8")
    assert "| usage_gap |" in text
    assert "--language km@mine" in text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the the the the", True),
        ("it is so. it is so. it is so. it is so.", True),
        ("no no no", False),
        ("a dog and a cat and a bird and a fish", False),
        ("", False),
    ],
)
def test_loops(text: str, found: bool) -> None:
    assert loops(text) is found


def test_copied() -> None:
    khmer = plugins.language("km")
    assert copied(SAMPLES[0].foreign, khmer)
    assert not copied(SAMPLES[0].english, khmer)
    assert not copied("", khmer)
    assert len(amharic()) == len(pairs()) == 20


def test_decoder_of_the_baselines_is_bare(subject: Subject, taught: Taught) -> None:
    """The English ceiling is what the decoder says by itself, not with the adapter's LoRA."""
    from llink.adapter.prompt import TASKS, build
    from llink.adapter.slots import answer_prompts
    from llink.evaluation.baselines import baseline_answers

    rows = pairs()[:4]
    bare = load_decoder(taught.recipe.decoder.name, device="cpu", dtype="float32")
    expected = answer_prompts(bare, [build(bare, TASKS["title"], text=p.english) for p in rows], 96)
    with subject.engine.using("km"):
        assert baseline_answers(subject, "english", rows, "title") == expected
    assert baseline_answers(subject, "english", rows[::-1], "title") == expected[::-1]


def test_repeats_in_a_dev_set_are_hits_and_told(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pair twice, one in capitals, and one English text with another translation: what is known by heart is found."""
    monkeypatch.setenv("LLINK_HOME", str(taught.folder / "home"))
    once = pairs()[:8]
    other = Pair(once[0].english, pairs()[9].foreign)
    file = tmp_path / "twice.jsonl"
    write_pairs(file, [*once, *once, Pair(once[1].english.upper(), once[1].foreign), other])
    options = ("--suite", "retrieval", "--against", "none", "--out", tmp_path / "o")
    done = llink(*taught.eval("km", data=file), *options)
    assert done.exit_code == 0, done.output
    found = numbers(tmp_path / "o")["retrieval"]["twice"]
    assert found["candidates"] == 10
    assert found["r1"] > 0.85  # the other translation is of another text
    assert found["back_r1"] > 0.75  # and capitals are other tokens
    assert "8 of 18 pairs repeat another one: each counts once." in done.stderr
    assert "4 of 10 texts stand in several pairs" in done.stderr
    assert "nothing is aligned" not in done.stderr
