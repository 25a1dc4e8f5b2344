"""What one more language costs: bytes and swap time with 1, 10 and 50 adapters resident, all copies of the Khmer one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from string import ascii_lowercase

from common import arguments, clocked, figure, p50_p99, report, resident_bytes

PLUGIN = '''"""Languages that differ in nothing but their codes."""

from llink.hookspecs import hookimpl
from llink.interfaces import Language


@hookimpl
def llink_languages():
    return [Language(code, code, f"Copy {code}", ("KHMER",), __name__) for code in %s]
'''


def many_languages(folder: Path, count: int) -> list[str]:
    """Register languages by a registry file, as any package may; to be called before LLINK reads its registry."""
    (folder / "llink_copies").mkdir()
    codes = [f"q{a}{b}" for a in "abcdefghijklmnopqrst" for b in ascii_lowercase][:count]  # ISO 639's for private use
    (folder / "llink_copies" / "__init__.py").write_text(PLUGIN % codes)
    registry = folder / "registry.yaml"
    registry.write_text("version: 2\nlanguages:\n  qaa: {package: llink_copies, path: .}\n")
    os.environ["LLINK_REGISTRY"] = str(registry)
    return codes


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, repeats=200)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 10, 50], help="how many at once")
    options = parser.parse_args()
    rows = []
    swaps: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codes = many_languages(folder, max(options.adapters))

        from llink import Engine, plugins
        from llink.adapter.files import MANIFEST, find_adapter
        from llink.store.registry import load_registry

        default = load_registry().default
        khmer = find_adapter(plugins.language("km"), default.encoder, default.decoder)
        copies = {code: Path(shutil.copytree(khmer, folder / "adapters" / code)) for code in codes}
        for code, copy in copies.items():
            manifest = json.loads((copy / MANIFEST).read_text())
            (copy / MANIFEST).write_text(json.dumps(manifest | {"language": code}))
        engine = Engine.load()
        engine.add("km", khmer)  # brings the encoder, and pays for what the first adapter of all costs
        engine.remove("km")
        before, cold = resident_bytes(), []
        for count in sorted(options.adapters):
            for code in codes[len(engine.languages) : count]:
                cold.append(clocked(lambda c=code: engine.add(c, copies[c])))

            def use(code: str) -> None:
                with engine.using(code):
                    pass

            taken = [clocked(lambda c=codes[n % count]: use(c)) for n in range(max(options.repeats, count))]
            swaps.append(p50_p99(taken)[0])
            own = engine.stats()["bytes"]
            rows.append(
                [
                    count, f"{own / 1e6:.1f}", f"{own / count / 1e6:.1f}", f"{(resident_bytes() - before) / count / 1e6:.1f}",
                    f"{p50_p99(taken)[0] * 1e6:.0f}", f"{p50_p99(taken)[1] * 1e6:.0f}", f"{p50_p99(cold)[0] * 1e3:.0f}",
                ]
            )  # fmt: skip
        fig, (left, right) = figure("Adapters on the shelf", panels=2)
        left.plot([row[0] for row in rows], [float(row[1]) for row in rows], marker="o")
        left.set(xlabel="adapters", ylabel="MB, all adapters", ylim=(0, None))
        right.plot([row[0] for row in rows], [s * 1e6 for s in swaps], marker="o")
        right.set(xlabel="adapters", ylabel="microseconds a swap", ylim=(0, 1.2e6 * max(swaps)))
        header = ["adapters", "MB", "MB each", "process MB each", "swap p50, us", "swap p99, us", "added in, ms"]
        report(
            "shelf",
            options.docs,
            fig,
            header,
            rows,
            ["All adapters are copies of the Khmer one, each under a language code of its own."],
        )


if __name__ == "__main__":
    main()
