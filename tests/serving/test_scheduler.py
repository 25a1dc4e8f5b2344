"""Requests in shared batches: who waits, who gives up, and that a failure stays with the request that caused it."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import Lfm2Config

from llink import Engine, LlinkError
from llink.adapter.lora import LoraSwitch
from llink.adapter.prompt import build
from llink.adapter.slots import filled, generate_ids
from llink.interfaces import Decoder
from llink.serving.running import Running, joinable
from llink.serving.scheduler import IDLE, Request, Row, Scheduler, asking
from llink.store.models import load_decoder
from llink_khmer import SAMPLES

KHMER = [s.foreign for s in SAMPLES]
BATCH = 4


@pytest.fixture(scope="module")
def decoder(decoder_folder: str) -> Decoder:
    return load_decoder(decoder_folder, dtype="float32")


@pytest.fixture
def scheduler(decoder: Decoder) -> Iterator[Scheduler]:
    switch = LoraSwitch(decoder)
    scheduler = Scheduler(decoder, switch, batch=BATCH, queue=10)
    yield scheduler
    scheduler.close()
    switch.close()


def row(
    decoder: Decoder, text: str = "What is rice?", limit: int = 4, on_tokens: Callable[[], None] | None = None
) -> Row:
    return Row(filled(decoder, build(decoder, text), None, torch.device("cpu")), None, limit, on_tokens)


class Held:
    """A request that stays in the decoder, after its first token, until it is let go."""

    def __init__(self, decoder: Decoder, scheduler: Scheduler, limit: int = 4) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.request = scheduler.submit(
            Request([row(decoder, limit=limit, on_tokens=self.hold)], {"min_new_tokens": 2})
        )
        assert self.begun.wait(20)

    def hold(self) -> None:
        self.begun.set()
        assert self.go.wait(20)


def test_an_answer_is_what_the_decoder_says(decoder: Decoder, scheduler: Scheduler) -> None:
    rows = [row(decoder, text, limit) for text, limit in (("What is rice?", 9), ("Hello", 3), ("Market", 5))]
    expected = [generate_ids(decoder, r.embeds[None], None, r.limit)[0] for r in rows]
    assert scheduler.submit(Request(rows, {})).result() == expected
    assert scheduler.batches == 1


def test_those_that_wait_share_the_next_batch(decoder: Decoder, scheduler: Scheduler) -> None:
    held = Held(decoder, scheduler)
    texts = [s.english for s in SAMPLES[:BATCH]]
    waiting = [scheduler.submit(Request([row(decoder, text)], {})) for text in texts]
    other = scheduler.submit(Request([row(decoder)], {"num_beams": 2}))
    assert len(scheduler) == BATCH + 1
    held.go.set()
    answers = [request.result() for request in waiting]
    assert other.result()
    assert scheduler.steps < 2 * BATCH  # with four tokens each
    assert answers == [[generate_ids(decoder, row(decoder, text).embeds[None], None, 4)[0]] for text in texts]
    assert len(scheduler) == 0


def test_a_large_request_takes_turns(decoder: Decoder, scheduler: Scheduler) -> None:
    held = Held(decoder, scheduler)
    order: list[str] = []
    large = Request([row(decoder) for _ in range(2 * BATCH)], {})
    large.future.add_done_callback(lambda _: order.append("large"))
    small = Request([row(decoder, "Hello")], {"repetition_penalty": 1.1})
    small.future.add_done_callback(lambda _: order.append("small"))
    for request in (large, small):
        scheduler.submit(request)
    held.go.set()
    assert len(large.result()) == 2 * BATCH
    small.result()
    assert order == ["small", "large"]


def test_a_short_answer_does_not_wait_for_a_long_one(decoder: Decoder, scheduler: Scheduler) -> None:
    held = Held(decoder, scheduler)
    told = threading.Event()
    short = scheduler.submit(Request([row(decoder, limit=1)], {"min_new_tokens": 40}))
    long = scheduler.submit(Request([row(decoder, limit=40, on_tokens=lambda: told.wait(20))], {"min_new_tokens": 40}))
    held.go.set()
    [ids] = short.result()
    assert len(ids) == 1
    assert not long.future.done()
    told.set()
    assert len(long.result()[0]) == 40


@pytest.fixture(scope="module")
def windowed(models: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """A decoder that attends to the last eight tokens in all layers but one."""
    folder = Path(shutil.copytree(models("qwen2"), tmp_path_factory.mktemp("windowed") / "qwen2"))
    config = json.loads((folder / "config.json").read_text())
    kinds = ["full_attention", *["sliding_attention"] * (config["num_hidden_layers"] - 1)]
    config |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": kinds}
    (folder / "config.json").write_text(json.dumps(config))
    return load_decoder(str(folder), dtype="float32")


@pytest.mark.parametrize("window", [False, True])
def test_rows_that_arrive_at_every_step_answer_as_alone(decoder: Decoder, windowed: Decoder, window: bool) -> None:
    """Prompts of all lengths, greedy and with options, join those that are there and leave them one after the other."""
    decoder = windowed if window else decoder
    switch = LoraSwitch(decoder)
    scheduler = Scheduler(decoder, switch, batch=BATCH, queue=30)
    texts = [s.english for s in SAMPLES[:20]]
    options: list[dict[str, object]] = [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}]
    limits = [1 + 5 * n % 13 for n in range(20)]
    asked = list(zip(texts, limits, [options[n % 3] for n in range(20)], strict=True))
    alone = [
        generate_ids(decoder, row(decoder, text).embeds[None], None, limit, **own)[0] for text, limit, own in asked
    ]
    arriving, requests = iter(asked), []

    def another() -> None:
        for text, limit, own in islice(arriving, 1):
            requests.append(scheduler.submit(Request([row(decoder, text, limit)], own)))

    first = scheduler.submit(Request([row(decoder, limit=60, on_tokens=another)], {"min_new_tokens": 60}))
    assert len(first.result()[0]) == 60
    assert [request.result()[0] for request in requests] == alone
    assert scheduler.batches >= 15
    assert scheduler.steps < 60 + sum(limits) / 2
    scheduler.close()
    switch.close()


def test_a_decoder_with_other_states_than_keys_and_values(decoder: Decoder, scheduler: Scheduler) -> None:
    """Its rows share batches from beginning to end."""
    hybrid = SimpleNamespace(
        model=SimpleNamespace(config=Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]))
    )
    assert joinable(decoder)
    assert not joinable(hybrid)  # type: ignore[arg-type]
    scheduler._joinable = False
    rows = [row(decoder, text, limit) for text, limit in (("What is rice?", 9), ("Hello", 3), ("Market", 5))]
    expected = [generate_ids(decoder, r.embeds[None], None, r.limit)[0] for r in rows]
    assert scheduler.submit(Request(rows, {})).result() == expected
    assert (scheduler.batches, scheduler.steps) == (1, 0)


def test_one_that_arrives_late_ends_before_a_long_one(decoder: Decoder, scheduler: Scheduler) -> None:
    late: list[Request] = []

    def arrive() -> None:
        if not late:
            late.append(scheduler.submit(Request([row(decoder, "Hello", limit=3)], {})))

    long = scheduler.submit(Request([row(decoder, limit=200, on_tokens=arrive)], {"min_new_tokens": 200}))
    ended: list[int] = []
    while not late:
        time.sleep(0.001)
    late[0].future.add_done_callback(lambda _: ended.append(len(long.rows[0].ids)))
    assert len(long.result()[0]) == 200
    assert ended[0] < 100


def test_a_pass_that_fails_is_taken_up_row_by_row(
    decoder: Decoder, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when memory runs out once: nobody's answer changes."""
    whole = Running.step
    texts, failed = ["What is rice?", "Hello", "Market"], []

    def once(running: Running) -> None:
        if len(running) == 3 and scheduler.steps == 3:
            failed.append(1)
            raise RuntimeError("out of memory")
        whole(running)

    monkeypatch.setattr(Running, "step", once)
    alone = [generate_ids(decoder, row(decoder, text).embeds[None], None, 9)[0] for text in texts]
    assert scheduler.submit(Request([row(decoder, text, 9) for text in texts], {})).result() == alone
    assert failed


def test_clients_take_turns(decoder: Decoder, scheduler: Scheduler) -> None:
    held = Held(decoder, scheduler)
    order: list[str] = []

    def ask(client: str) -> Request:
        with asking(client):
            request = Request([row(decoder, limit=4)], {"min_new_tokens": 4})
        request.future.add_done_callback(lambda _: order.append(client))
        return scheduler.submit(request)

    many = [ask("many") for _ in range(8)]
    few = ask("few")
    held.go.set()
    assert all(request.result() for request in [*many, few])
    assert order.index("few") < BATCH


def test_queue_limit(decoder: Decoder, scheduler: Scheduler) -> None:
    held = Held(decoder, scheduler)
    waiting = [scheduler.submit(Request([row(decoder)] * 5, {})) for _ in "12"]
    with pytest.raises(LlinkError, match=r"\[E513\] 10 texts are waiting already; 10 is the limit.*max_queue"):
        scheduler.submit(Request([row(decoder)], {}))
    held.go.set()
    assert [len(request.result()) for request in waiting] == [5, 5]
    assert scheduler.submit(Request([row(decoder)], {})).result()


def test_more_rows_than_the_queue_holds(decoder: Decoder, scheduler: Scheduler) -> None:
    assert len(scheduler.submit(Request([row(decoder) for _ in range(11)], {})).result()) == 11


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_one_that_gives_up_in_the_queue(decoder: Decoder, scheduler: Scheduler, how: str) -> None:
    held, cancel = Held(decoder, scheduler), threading.Event()
    ran = threading.Event()
    deadline = time.monotonic() + 0.1 if how == "timeout" else None
    request = Request([row(decoder, on_tokens=ran.set)], {}, deadline, cancel)
    scheduler.submit(request)
    threading.Timer(0.1, cancel.set if how == "cancel" else lambda: None).start()
    with pytest.raises(LlinkError, match=r"\[E514\].*" + ("timeout" if how == "timeout" else "cancelled")):
        request.result()  # at once, though the decoder is busy
    other = scheduler.submit(Request([row(decoder)], {}))
    held.go.set()
    assert other.result()
    assert not ran.is_set()


@pytest.mark.parametrize("how", ["timeout", "cancel", "close"])
def test_one_that_gives_up_in_the_decoder(decoder: Decoder, scheduler: Scheduler, how: str) -> None:
    """It stops at its next token; its batch goes on without it, and half an answer is never given for a whole one."""
    first, cancel, tokens = threading.Event(), threading.Event(), []
    held = Held(decoder, scheduler)

    def slow() -> None:
        tokens.append(1)
        first.set()
        time.sleep(0.02)

    options = {"min_new_tokens": 400}
    leaver = Request([row(decoder, limit=400, on_tokens=slow)], options, None, cancel)
    stayer = Request([row(decoder, "Hello", limit=12)], options)
    for request in (leaver, stayer):
        scheduler.submit(request)
    held.go.set()
    assert first.wait(20)
    if how == "timeout":
        leaver.deadline = time.monotonic()
    elif how == "cancel":
        cancel.set()
    else:
        scheduler.close()
    with pytest.raises(LlinkError, match=r"\[E514\]"):
        leaver.result()
    if how != "close":
        assert len(stayer.result()[0]) == 12
        assert scheduler.submit(Request([row(decoder)], {})).result()
    assert len(tokens) < 100


@pytest.mark.parametrize("poison", ["callback", "shape"])
def test_a_poisoned_request_fails_alone(decoder: Decoder, scheduler: Scheduler, poison: str) -> None:
    def fail() -> None:
        raise ZeroDivisionError("poison")

    held = Held(decoder, scheduler)
    bad = row(decoder, on_tokens=fail) if poison == "callback" else Row(torch.zeros(7, 5), None, 4)
    texts = ["What is rice?", "Hello", "Market"]
    requests = [Request([row(decoder, text)], {}) for text in texts]
    requests.insert(1, Request([bad], {}))
    for request in requests:
        scheduler.submit(request)
    held.go.set()
    poisoned = requests.pop(1)
    with pytest.raises((ZeroDivisionError, RuntimeError)):
        poisoned.result()
    for text, request in zip(texts, requests, strict=True):
        assert request.result() == [generate_ids(decoder, row(decoder, text).embeds[None], None, 4)[0]]
    assert scheduler.submit(Request([row(decoder)], {})).result()


def test_an_idle_worker_ends_and_another_begins(decoder: Decoder, scheduler: Scheduler) -> None:
    def workers() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "llink-decoder" and t.is_alive()]

    others = len(workers())
    scheduler.submit(Request([row(decoder)], {})).result()
    assert len(workers()) <= others + 1
    tensor = weakref.ref((request := scheduler.submit(Request([row(decoder)], {}))).rows[0].embeds)
    request.result()
    del request
    deadline = time.monotonic() + 10 * IDLE
    while len(workers()) > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers()
    gc.collect()
    assert tensor() is None
    assert scheduler.submit(Request([row(decoder)], {})).result()


def test_submitting_while_the_worker_ends(
    decoder: Decoder, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker ends after every request; none is left lying."""
    monkeypatch.setattr("llink.serving.scheduler.IDLE", 0.001)
    for pause in (0.0, 0.0005, 0.001, 0.0012, 0.002) * 8:
        request = scheduler.submit(Request([row(decoder, limit=1)], {}, time.monotonic() + 20))
        assert request.result()
        time.sleep(pause)


def test_close_from_several_threads(decoder: Decoder) -> None:
    switch = LoraSwitch(decoder)
    scheduler = Scheduler(decoder, switch, batch=BATCH)
    held = Held(decoder, scheduler)
    waiting = scheduler.submit(Request([row(decoder)], {}))
    with ThreadPoolExecutor(3) as pool:
        closing = [pool.submit(scheduler.close) for _ in range(3)]
        with pytest.raises(LlinkError, match=r"\[E514\].*cancelled"):
            waiting.result()
        with pytest.raises(LlinkError, match=r"\[E513\].*closed"):
            scheduler.submit(Request([row(decoder)], {}))
        held.go.set()
        for done in closing:
            done.result(20)
    switch.close()


LEFT = """
import sys, threading, torch
from llink.adapter.lora import LoraSwitch
from llink.store.models import load_decoder
from llink.adapter.prompt import build
from llink.adapter.slots import filled
from llink.serving.scheduler import Request, Row, Scheduler

torch.set_num_threads(1)
decoder = load_decoder(sys.argv[1], dtype="float32")
begun = threading.Event()
embeds = filled(decoder, build(decoder, "What is rice?"), None, torch.device("cpu"))
scheduler = Scheduler(decoder, LoraSwitch(decoder), batch=1)
scheduler.submit(Request([Row(embeds, None, 400, begun.set)], {"min_new_tokens": 400}))
assert begun.wait(60)
"""


def test_a_program_may_end_while_the_worker_is_in_the_decoder(decoder_folder: str) -> None:
    done = subprocess.run([sys.executable, "-c", LEFT, decoder_folder], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# Through the engine


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, tiny_adapter: Path) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32", max_queue=2)
    engine.add("km", tiny_adapter)
    return engine


def test_timeout_and_cancel(engine: Engine) -> None:
    answer = engine.generate(KHMER[0], "km", max_new_tokens=6)
    long = {"max_new_tokens": 600, "min_new_tokens": 600}
    began = time.monotonic()
    with pytest.raises(LlinkError, match=r"\[E514\].*timeout"):
        engine.generate(KHMER[0], "km", timeout=0.2, **long)
    with pytest.raises(LlinkError, match=r"\[E514\]"):
        list(engine.stream(KHMER[0], "km", timeout=0.2, **long))
    with pytest.raises(LlinkError, match=r"\[E514\]"):
        engine.chat([{"role": "user", "content": KHMER[0]}], timeout=0.0, **long)
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(LlinkError, match=r"\[E514\].*cancelled"):
        engine.generate(KHMER[0], "km", cancel=cancel, **long)
    assert time.monotonic() - began < 10
    assert engine.generate(KHMER[0], "km", max_new_tokens=6) == answer
    assert engine.stats()["adapters"]["km"]["users"] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_beam": 2}, "Did you mean 'num_beams'"),
        ({"num_return_sequences": 2}, "Unknown option 'num_return_sequences'"),
        ({"stopping_criteria": []}, "Available: "),
        ({"num_beams": 0}, "num_beams"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"repetition_penalty": -1.0}, "penalty"),
        ({"bad_words_ids": "no"}, "bad_words_ids"),
    ],
)
def test_options_that_cannot_be(engine: Engine, options: dict[str, object], says: str) -> None:
    with pytest.raises(LlinkError, match=r"\[E518\]") as caught:
        engine.generate(KHMER[0], "km", **{"max_new_tokens": 3, **options})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert engine.generate(KHMER[0], "km", max_new_tokens=3)
