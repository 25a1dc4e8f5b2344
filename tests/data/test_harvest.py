"""``llink data harvest``: pairs out of installed catalogues and of packages, with source and licence; evil archives."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polib
import pytest
from click.testing import CliRunner

from llink import LlinkError
from llink.cli import main
from llink.data.files import alone
from llink.data.harvest import harvest, usual_folders
from llink.data.packages import copyright_licence, unpack
from llink.data.pairs import Pair, Pairs, read_pairs
from llink.plugins import language

KHMER = language("km")
MESSAGES = {"_Open the door": "_បើកទ្វារ", "water": "ទឹក", "Linux": "Linux", "fish": "poisson", "42": "៤២"}
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: debian/*
Copyright: somebody
License: MIT

Files: *
Copyright: others
License: GPL-2+
 On Debian systems see /usr/share/common-licenses/GPL-3.
"""


def save(path: Path, messages: Mapping[str, str], **metadata: str) -> None:
    po = polib.POFile()
    po.metadata = {"Content-Type": "text/plain; charset=UTF-8", **metadata}
    po.extend(polib.POEntry(msgid=english, msgstr=foreign) for english, foreign in messages.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    po.save_as_mofile(str(path)) if path.suffix == ".mo" else po.save(str(path))


def metadata(name: str, *lines: str) -> str:
    return "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.5", *lines, ""])


def site_packages(folder: Path) -> Path:
    """Two packages as pip leaves them; the second one's files are listed nowhere."""
    site = folder / "site-packages"
    save(site / "web" / "locale" / "km" / "LC_MESSAGES" / "django.mo", MESSAGES)
    save(site / "web" / "locale" / "km" / "LC_MESSAGES" / "django.po", MESSAGES)
    save(site / "web" / "locale" / "de" / "LC_MESSAGES" / "km.po", {"house": "ផ្ទះ"})
    save(site / "lost" / "locales" / "km_KH" / "LC_MESSAGES" / "lost.mo", {"road": "ផ្លូវ", "water": "ទឹក"})
    info = site / "web-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata("Web", "License-Expression: BSD-3-Clause"))
    (info / "RECORD").write_text("web/locale/km/LC_MESSAGES/django.mo,,\nweb/locale/km/LC_MESSAGES/django.po,,\n")
    return site


def wheel(folder: Path, *lines: str, **more: bytes) -> Path:
    """A real wheel with a Khmer and a Lao catalogue."""
    path = folder / "web-1.5-py3-none-any.whl"
    for code, messages in (("km", MESSAGES), ("lo_LA", {"water": "ນ້ຳ"})):
        save(folder / "tree" / "web" / "locale" / code / "LC_MESSAGES" / "django.po", messages)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((folder / "tree").rglob("*.po")):
            archive.write(file, file.relative_to(folder / "tree"))
        archive.writestr("web-1.5.dist-info/METADATA", metadata("Web", *lines))
        archive.writestr("web/setup.py", "raise SystemExit('run')")
        for name, data in more.items():
            archive.writestr(name, data)
    return path


def run(*args: str | Path, **env: str) -> Any:
    return CliRunner().invoke(main, ["data", "harvest", *map(str, args)], env=env)


def rows(path: Path) -> list[tuple[str, str]]:
    return [(pair.english, pair.foreign) for pair in read_pairs(path.name, path.parent).rows]


def test_installed_catalogues(tmp_path: Path) -> None:
    out = tmp_path / "km.jsonl.gz"
    result = run("km", "--root", site_packages(tmp_path), "--out", out)
    assert result.exit_code == 0, result.output
    assert read_pairs(out.name, tmp_path).rows == [
        Pair("road", "ផ្លូវ", "installed:lost.mo", "unknown"),
        Pair("water", "ទឹក", "installed:lost.mo", "unknown"),
        Pair("Open the door", "បើកទ្វារ", "pypi:Web==1.5", "BSD-3-Clause"),
    ]
    assert "pypi:Web==1.5" in result.output
    for reason in ("1 duplicates", "1 the same in both languages", "1 without a Khmer letter", "1 without an English"):
        assert reason in result.output
    assert "The licence of 2 pairs is unknown" in result.output


def test_a_second_harvest_adds_what_is_new(tmp_path: Path) -> None:
    out = tmp_path / "km.jsonl.gz"
    site = site_packages(tmp_path)
    run("km", "--root", site, "--out", out)
    first = out.read_bytes()
    assert "beside the 3 it had" in run("km", "--root", site, "--out", out).output
    assert out.read_bytes() == first
    save(site / "new" / "locale" / "km" / "LC_MESSAGES" / "new.mo", {"dog": "ឆ្កែ"})
    run("km", "--root", site, "--out", out)
    assert rows(out) == [("road", "ផ្លូវ"), ("water", "ទឹក"), ("Open the door", "បើកទ្វារ"), ("dog", "ឆ្កែ")]


def test_what_a_file_holds_stays_as_it_is(tmp_path: Path) -> None:
    """Broken rows, fields that are no pair's, and an end without a line break."""
    before = (
        '{"english":"Old pair","foreign":"ចាស់","note":"by hand"}\nbroken line {\n{"english":"half"}'.encode()
        + b"\n\xff"
    )
    out = tmp_path / "km.jsonl"
    out.write_bytes(before)
    result = run("km", "--root", site_packages(tmp_path), "--out", out)
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(before + b"\n{")
    assert rows(out)[0] == ("Old pair", "ចាស់")
    assert len(rows(out)) == 4
    assert "beside the 1 it had" in result.output
    assert (
        "3 rows in it that are no pairs stay as they are (first: km.jsonl:2, km.jsonl:3, km.jsonl:4)" in result.output
    )


@pytest.mark.parametrize("content", [b'[{"english": "a", "foreign": "b"}]', '{"english": 1}'.encode("utf-16")])
def test_file_to_which_no_lines_can_be_added(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "km.jsonl").write_bytes(content)
    result = run("km", "--root", site_packages(tmp_path), "--out", tmp_path / "km.jsonl")
    assert (result.exit_code, "[E218]" in result.output) == (1, True)
    assert (tmp_path / "km.jsonl").read_bytes() == content


def test_harvests_into_one_file_at_once(tmp_path: Path) -> None:
    """Each begins before the other ends: all pairs are kept, each once."""
    out, count = tmp_path / "km.jsonl.gz", 4
    found = [Pairs([Pair(f"own {n} {i}", "ទឹក") for i in range(300)] + [Pair("shared", "ត្រី")]) for n in range(count)]
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom llink.data.harvest import add_to\n"
        "from llink.data.pairs import Pair, Pairs\nfrom llink.plugins import language\n"
        "rows = [Pair(*row) for row in json.loads(sys.argv[2])]\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "add_to(Path(sys.argv[1]), Pairs(rows), language('km'))\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(out), json.dumps([[p.english, p.foreign] for p in pairs.rows])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for pairs in found
    ]  # fmt: skip
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(timeout=500) for process in started] == [0] * count
    assert sorted(rows(out)) == sorted({(p.english, p.foreign) for pairs in found for p in pairs.rows})


def test_lock_that_another_process_holds_too_long(tmp_path: Path) -> None:
    path = tmp_path / "km.jsonl"
    with alone(path), pytest.raises(LlinkError, match=r"\[E107\].*km.jsonl"), alone(path, timeout=0.1):
        pass


def test_packages_that_cannot_be_had_cost_no_other(tmp_path: Path) -> None:
    out, good = tmp_path / "km.jsonl", f"pypi:{wheel(tmp_path)}"
    (tmp_path / "bad.whl").write_bytes(b"no archive")
    bad = ("--package", f"pypi:{tmp_path / 'none.whl'}", "--package", f"pypi:{tmp_path / 'bad.whl'}")
    result = run("km", "--no-installed", *bad, "--package", good, "--out", out)
    assert result.exit_code == 1
    assert rows(out) == [("Open the door", "បើកទ្វារ"), ("water", "ទឹក")]
    assert "[E216] 2 of 3 packages are not in it." in result.output
    for part in ("none.whl does not exist", "bad.whl is not unpacked: it is damaged"):
        assert part in result.output
    nothing = run("km", "--no-installed", *bad, "--out", tmp_path / "other.jsonl")
    assert "[E216]" in nothing.output
    assert not (tmp_path / "other.jsonl").exists()


def test_default_place_is_the_data_folder(tmp_path: Path) -> None:
    result = run("Khmer", "--root", site_packages(tmp_path), LLINK_DATA=str(tmp_path / "data"))
    assert result.exit_code == 0, result.output
    assert len(rows(tmp_path / "data" / "km" / "harvest.jsonl.gz")) == 3


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        (["License-Expression: MIT"], "MIT"),
        (["License: BSD"], "BSD"),
        (["License: UNKNOWN", "Classifier: License :: OSI Approved :: BSD License"], "BSD License"),
        (["License: " + "a whole licence text, " * 9, "Classifier: License :: Public Domain"], "Public Domain"),
        ([], "unknown"),
    ],
)
def test_wheel(tmp_path: Path, stated: list[str], licence: str) -> None:
    found = harvest(KHMER, [f"pypi:{wheel(tmp_path, *stated)}"], installed=False)
    assert found.rows == [
        Pair("Open the door", "បើកទ្វារ", "pypi:Web==1.5", licence),
        Pair("water", "ទឹក", "pypi:Web==1.5", licence),
    ]


def test_language_that_no_plugin_brings_yet(tmp_path: Path) -> None:
    out = tmp_path / "lo.jsonl"
    result = run("lo", "--no-installed", "--package", f"pypi:{wheel(tmp_path)}", "--out", out)
    assert result.exit_code == 0, result.output
    assert rows(out) == [("water", "ນ້ຳ")]


def test_named_wheel_comes_through_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name from a folder of wheels, as from an index; the second time from LLINK's own downloads."""
    path = wheel(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("web-1.5.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("web-1.5.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert len(harvest(KHMER, ["pypi:web==1.5"], installed=False).rows) == 2
    path.unlink()
    assert len(harvest(KHMER, ["pypi:web==1.5"], installed=False).rows) == 2
    with pytest.raises(LlinkError, match=r"\[E216\].*web==9.*source archive"):
        harvest(KHMER, ["pypi:web==9"], installed=False)


def test_source_archive_is_unpacked_and_not_run(tmp_path: Path) -> None:
    save(tmp_path / "web-1.5" / "po" / "km.po", MESSAGES)
    (tmp_path / "web-1.5" / "PKG-INFO").write_text(metadata("Web", "License: GPL-3.0-or-later"))
    (tmp_path / "web-1.5" / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with tarfile.open(tmp_path / "web-1.5.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "web-1.5", "web-1.5")
    found = harvest(KHMER, [f"pypi:{tmp_path / 'web-1.5.tar.gz'}"], installed=False)
    assert {(pair.source, pair.licence) for pair in found.rows} == {("pypi:Web==1.5", "GPL-3.0-or-later")}
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb makes and reads Debian packages")
def test_debian_package(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    save(tree / "usr" / "share" / "locale" / "km" / "LC_MESSAGES" / "words.mo", MESSAGES)
    doc = tree / "usr" / "share" / "doc" / "words"
    doc.mkdir(parents=True)
    (doc / "copyright").write_text(COPYRIGHT)
    (tree / "DEBIAN").mkdir()
    control = (
        "Package: words\nVersion: 2:1.0\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: words\n"
    )
    (tree / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", str(tree), str(tmp_path / "words.deb")], check=True, capture_output=True)
    found = harvest(KHMER, [f"debian:{tmp_path / 'words.deb'}"], installed=False)
    assert sorted(pair.english for pair in found.rows) == ["Open the door", "water"]
    assert {(pair.source, pair.licence) for pair in found.rows} == {("debian:words=2:1.0", "GPL-2+")}


def test_licence_of_an_old_copyright_file() -> None:
    text = "It was packaged by somebody.\n\nSee /usr/share/common-licenses/LGPL-2.1.\n"
    assert copyright_licence(text) == "LGPL-2.1"
    assert copyright_licence("Do what you like.") == "unknown"


def test_sources_of_the_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A language whose source of text is a package, brought by a real plugin of a process of its own."""
    plugin = f"""
from llink.hookspecs import hookimpl
from llink.interfaces import Language, Source

@hookimpl
def llink_languages():
    source = Source("Web", "pypi:{wheel(tmp_path)}", "MIT")
    return [Language("lo", "lao", "Lao", ("LAO",), "plug_lao", sources=(source,))]
"""
    (tmp_path / "plug_lao.py").write_text(plugin)
    info = tmp_path / "llink_lao-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llink-lao\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llink]\nlao = plug_lao\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out = tmp_path / "lo.jsonl"
    command = [sys.executable, "-m", "llink", "data", "harvest", "lo", "--sources", "--no-installed", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert rows(out) == [("water", "ນ້ຳ")]


def test_damaged_and_foreign_catalogues_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "locale" / "km" / "LC_MESSAGES"
    save(folder / "good.mo", {"water": "ទឹក"})
    save(folder / "russian.po", {"Открыть файл": "បើក", "Сохранить": "រក្សាទុក"})
    (folder / "damaged.mo").write_bytes(b"\xde\x12\x04\x95")
    (folder / "partly.po").write_text('msgid "fish"\nmsgstr "ត្រី"\n\nwhat is this\n')
    found = harvest(KHMER, roots=[tmp_path])
    assert sorted(pair.english for pair in found.rows) == ["fish", "water"]
    assert found.skipped == {
        "damaged catalogues": 1, "broken": 1, "in a catalogue whose msgids are not English": 2
    }  # fmt: skip
    assert found.first_bad == ["installed:damaged.mo damaged.mo", "installed:partly.po partly.po:4"]


def test_nothing_found(tmp_path: Path) -> None:
    result = run("km", "--root", tmp_path, "--out", tmp_path / "x.jsonl")
    assert result.exit_code == 1
    assert "[E211] No pair of English and Khmer was found" in result.stderr
    assert not (tmp_path / "x.jsonl").exists()
    lao = harvest(language("am"), [f"pypi:{wheel(tmp_path)}"], installed=False)
    assert lao.skipped == {"packages without a Amharic catalogue": 1}


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("Django", "E215"),
        ("pypi:", "E215"),
        ("pypi:--index-url=http://localhost", "E215"),
        ("pypi:../web", "E215"),
        ("pypi:web @ http://localhost", "E215"),
        ("debian:-o", "E215"),
        ("npm:web", "E215"),
        ("pypi:not-here-1.0.whl", "E216"),
        ("debian:not-here.deb", "E216"),
    ],
)
def test_package_that_is_none(tmp_path: Path, spec: str, code: str) -> None:
    result = run("km", "--package", spec, "--no-installed", "--out", tmp_path / "x.jsonl")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"llink: [{code}] ")


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["../km.po", "web/../../km.po", "/km.po"])
def test_archive_that_climbs_out(tmp_path: Path, name: str) -> None:
    evil = tmp_path / "evil.whl"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr(name, "x")
    for path in (evil, tar(tmp_path / "evil.tar.gz", (tarfile.TarInfo(name), b"x"))):
        with pytest.raises(LlinkError, match=r"\[E217\].*outside of its folder"):
            unpack(path, tmp_path / "in" / "here", lambda _: True)
        assert not list(tmp_path.rglob("km.po"))


def test_links_are_not_made(tmp_path: Path) -> None:
    """A link out of the folder, and then a file through it."""
    link = tarfile.TarInfo("web")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    path = tar(tmp_path / "evil.tar.gz", (link, b""), (tarfile.TarInfo("web/km.po"), b"x"))
    assert unpack(path, tmp_path / "in", lambda _: True) == [tmp_path / "in" / "web" / "km.po"]
    assert not (tmp_path / "km.po").exists()


def test_archive_that_swells(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.whl"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("km.po", "w") as member:
        for _ in range(65):
            member.write(bytes(1 << 20))
    with pytest.raises(LlinkError, match=r"\[E217\].*more than anyone needs"):
        unpack(bomb, tmp_path / "in", lambda _: True)
    assert not (tmp_path / "in").exists()
    assert unpack(bomb, tmp_path / "in", lambda _: False) == []


@pytest.mark.parametrize("name", ["x.whl", "x.tar.gz", "x.deb"])
def test_damaged_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 no archive")
    if name.endswith(".deb") and not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb")
    with pytest.raises(LlinkError, match=rf"\[E217\] {name} is not unpacked: it is damaged"):
        unpack(tmp_path / name, tmp_path / "in", lambda _: True)


def test_usual_folders_hold_this_python() -> None:
    assert Path(polib.__file__).resolve().parent in usual_folders()
