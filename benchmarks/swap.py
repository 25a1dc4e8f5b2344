"""How long it takes to change the language: LLINK's engine beside PEFT's ways and beside reloading the decoder."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import CODES, arguments, clocked, figure, forget, p50_p99, read_seconds, report, three_languages
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter

from llink import Engine
from llink.store.models import load_decoder


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__, repeats=30).parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        engine, found, note = three_languages(Path(folder))
        places = list(found.values())
        decoder = engine.decoder.name

        def use(code: str, shelf: Engine = engine) -> None:
            with shelf.using(code):
                pass

        turns = [CODES[n % 3] for n in range(options.repeats * 20)]
        seconds["LLINK, resident"] = [clocked(lambda c=c: use(c)) for c in turns]
        narrow = Engine(engine.decoder, engine.encoder, device=engine.device, max_resident=1)
        for code, place in found.items():
            narrow.add(code, place)
        seconds["LLINK, from files in the page cache"] = [
            clocked(lambda c=c: use(c, narrow)) for c in turns[: options.repeats]
        ]
        seconds["LLINK, from disk"] = []
        for code in turns[: options.repeats]:
            forget(found[code])
            seconds["LLINK, from disk"].append(clocked(lambda c=code: use(c, narrow)))
        narrow.close()
        engine.close()

        model = load_decoder(decoder, device=engine.device).model
        peft = PeftModel.from_pretrained(model, str(places[0]), adapter_name="a")
        peft.load_adapter(str(places[1]), adapter_name="b")
        seconds["PEFT set_adapter, both resident"] = [
            clocked(lambda n=n: peft.set_adapter("ab"[n % 2])) for n in range(options.repeats)
        ]
        peft.delete_adapter("b")

        def load(place: Path) -> None:
            peft.load_adapter(str(place), adapter_name="b")
            peft.set_adapter("b")

        seconds["PEFT load_adapter, from files in the page cache"] = []
        for n in range(options.repeats):
            seconds["PEFT load_adapter, from files in the page cache"].append(clocked(lambda n=n: load(places[n % 3])))
            peft.set_adapter("a")
            peft.delete_adapter("b")
        seconds["PEFT hotswap_adapter, from files in the page cache"] = [
            clocked(lambda n=n: hotswap_adapter(peft, str(places[n % 3]), "a", torch_device=engine.device))
            for n in range(options.repeats)
        ]

        def reload(place: Path) -> None:
            PeftModel.from_pretrained(load_decoder(decoder, device=engine.device).model, str(place))

        seconds["reloading the decoder with PEFT"] = [
            clocked(lambda n=n: reload(places[n % 3])) for n in range(max(3, options.repeats // 10))
        ]
        cached, read = read_seconds(places[0], options.repeats), read_seconds(places[0], options.repeats, forget)

    middle = {name: p50_p99(values)[0] for name, values in seconds.items()}
    fastest_peft = min(middle[name] for name in middle if name.startswith("PEFT") and "cache" in name)
    rows = [
        [name, f"{p50_p99(v)[0] * 1e3:.3f}", f"{p50_p99(v)[1] * 1e3:.3f}", f"{middle[name] / middle['LLINK, resident']:,.0f}x"]
        for name, v in seconds.items()
    ]  # fmt: skip
    notes = [
        "LLINK swaps projector, injector and LoRA together, and from files it also checks every file's sha256 and every "
        "value; PEFT's rows are the LoRA alone.",
        f"Resident, LLINK is {fastest_peft / middle['LLINK, resident']:,.0f}x as fast as PEFT's fastest swap from files. From "
        f"disk it takes {middle['LLINK, from disk'] / read:.1f}x as long as reading its files does ({read * 1e3:.1f} ms); where "
        f"the files are in the page cache, {middle['LLINK, from files in the page cache'] / cached:.1f}x ({cached * 1e3:.1f} ms).",
        note,
    ]
    fig, axes = figure("Changing the language, median")
    axes.barh(list(middle)[::-1], [middle[name] * 1e3 for name in list(middle)[::-1]])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    report("swap", options.docs, fig, ["way", "p50, ms", "p99, ms", "to LLINK resident"], rows, notes)


if __name__ == "__main__":
    main()
