"""Standard test sets, on small folders of the layouts that they have on the hub; all texts are this project's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from llink import LlinkError, plugins
from llink.cli import main
from llink.data.standard import STANDARD, load_set
from llink_khmer import SAMPLES

KM = plugins.language("km")
ROWS = list(enumerate(SAMPLES[:5]))
WANTED = [(KM.normalise(s.english), KM.normalise(s.foreign)) for _, s in ROWS]


def write(folder: Path, configs: dict[str, tuple[str, list[dict[str, Any]]]]) -> Path:
    """A data set as the hub keeps it: JSONL a config, and a card that names them."""
    listed = []
    for config, (split, rows) in configs.items():
        (folder / config).mkdir(parents=True)
        (folder / config / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        listed.append({"config_name": config, "data_files": [{"split": split, "path": f"{config}/{split}.jsonl"}]})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': listed})}---\n", "utf-8")
    return folder


def flores(folder: Path) -> Path:
    # In another order, as the rows of two configs may be.
    sides = {
        "eng_Latn": [{"id": n, "text": s.english} for n, s in reversed(ROWS)],
        "khm_Khmr": [{"id": n, "text": s.foreign} for n, s in ROWS],
        "zho_Hans": [{"id": 0, "text": "一"}],
        "zho_Hant": [{"id": 0, "text": "一"}],
    }
    return write(folder, {config: ("devtest", rows) for config, rows in sides.items()})


def ntrex(folder: Path) -> Path:
    return write(folder, {"default": ("test", [{"eng_Latn": s.english, "khm_Khmr": s.foreign} for _, s in ROWS])})


def tico19(folder: Path) -> Path:
    rows = [
        {"sourceLang": "en", "targetLang": "km", "sourceString": s.english, "targetString": s.foreign} for _, s in ROWS
    ]
    return write(folder, {"en-km": ("test", rows), "en-am": ("test", rows), "all": ("test", rows)})


def alt(folder: Path) -> Path:
    rows = [
        {"SNT.URLID": "1", "translation": {"en": s.english, "en_tok": s.english, "khm": s.foreign, "my": ""}}
        for _, s in ROWS
    ]
    return write(folder, {"alt-parallel": ("test", rows)})


def belebele(folder: Path) -> Path:
    sides = {
        code: [
            {"link": f"l{n}", "question_number": q, "flores_passage": text(s), "question": "?"}
            for n, s in ROWS
            for q in (1, 2)
        ]
        for code, text in {"eng_Latn": lambda s: s.english, "khm_Khmr": lambda s: s.foreign}.items()
    }
    return write(folder, {config: ("test", rows) for config, rows in sides.items()})


LAYOUTS = {"flores-plus": flores, "ntrex": ntrex, "tico19": tico19, "alt": alt, "belebele": belebele}


@pytest.mark.parametrize("name", STANDARD)
def test_whole_and_in_order(tmp_path: Path, name: str) -> None:
    key, rows = load_set(f"{name}={LAYOUTS[name](tmp_path / name)}", KM)
    assert key == name
    assert [(p.english, p.foreign) for p in rows] == WANTED
    assert {(p.source, p.licence) for p in rows} == {(name, STANDARD[name].licence)}


def test_what_a_set_does_not_have(tmp_path: Path) -> None:
    folder = flores(tmp_path / "flores")
    for name, language in (
        ("flores", KM),
        (f"flores-plus={folder}", plugins.language("am")),
        (f"tico19={folder}", KM),
        (f"alt={alt(tmp_path / 'alt')}", plugins.language("my")),
    ):
        with pytest.raises(LlinkError) as caught:
            load_set(name, language)
        assert caught.value.code == "E534", caught.value
    with pytest.raises(LlinkError) as caught:
        load_set(f"flores-plus={tmp_path / 'nothing'}", KM)
    assert caught.value.code == "E210"


def test_eval_measures_on_it_whole_with_signatures(
    tiny_adapter: Path, tmp_path: Path, raw_recipe: dict[str, Any]
) -> None:
    folder = ntrex(tmp_path / "ntrex")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps({**raw_recipe, "name": "tiny"}))
    line = [
        "eval",
        "km",
        "--recipe",
        str(recipe),
        "--adapter",
        str(tiny_adapter),
        "--suite",
        "translate",
        "--against",
        "none",
    ]
    done = CliRunner().invoke(main, [*line, "--set", f"ntrex={folder}", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "ntrex, chrf++: nrefs:1|case:mixed|eff:yes|nc:6|nw:2" in done.output
    found = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))["results"]["translate"]
    assert list(found) == ["ntrex"]
    assert found["ntrex"]["pairs"] == len(ROWS)
