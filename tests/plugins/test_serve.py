"""The server as its clients see it: OpenAI's own, one of LibreTranslate from PyPI, and plain HTTP."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from libretranslatepy import LibreTranslateAPI
from served import Served, serve
from variants import GREETING

from llink import Engine, Foreign
from llink_khmer import SAMPLES

KHMER = [s.foreign for s in SAMPLES]
AMHARIC = GREETING["am"].strip()
SHORT: dict[str, Any] = {"max_tokens": 8}
ASK = "Summarise in one sentence:"


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, tiny_adapters: dict[str, Path]) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    for code, folder in tiny_adapters.items():
        engine.add(code, folder)
    return engine


@pytest.fixture(scope="module")
def served(engine: Engine, encoder_folder: str) -> Iterator[Served]:
    with serve(engine, encoder_folder) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["auto", "am", "km", "my", "chatml_llama"]
    assert client.models.retrieve("km").id == "km"
    with pytest.raises(openai.NotFoundError, match=r"E555.*Did you mean 'km'"):
        client.models.retrieve("kmm")


def test_chat_is_what_the_engine_says(client: openai.OpenAI, engine: Engine) -> None:
    made = client.chat.completions.create(model="auto", messages=[user(f"{ASK} {KHMER[0]}")], **SHORT)
    expected = engine.chat([{"role": "user", "content": [ASK, Foreign(KHMER[0], "km")]}], max_new_tokens=8)
    assert made.choices[0].message.content == expected
    assert made.choices[0].finish_reason in ("stop", "length")
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    used = made.usage.model_dump()
    [piece] = engine.reader.whole([KHMER[0]], engine.resident("km"))
    assert used["slots"] == piece.k
    assert used["raw_tokens"] == len(engine.decoder.tokenize(KHMER[0]))


def test_chat_streams_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "km", "messages": [user(f"{ASK} {KHMER[1]}")], "max_tokens": 12}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert sum(bool(c.usage) for c in chunks) == 1


def test_a_task_and_the_bare_decoder(client: openai.OpenAI, engine: Engine) -> None:
    def said(model: str, text: str, **extra: Any) -> str | None:
        return (
            client.chat.completions.create(model=model, messages=[user(text)], extra_body=extra, **SHORT)
            .choices[0]
            .message.content
        )

    expected = engine.generate(KHMER[0], "km", task="title", max_new_tokens=8)
    assert said("km", KHMER[0], task="title") == said("auto", KHMER[0], task="title", language="km") == expected
    plain = engine.generate(KHMER[0], "km", task="title", max_new_tokens=8, verbatim=False, loop_guard=False)
    assert said("km", KHMER[0], task="title", verbatim=False, loop_guard=False) == plain
    assert said("chatml_llama", KHMER[0]) == engine.generate(KHMER[0], None, max_new_tokens=8)
    assert said("auto", "What is rice?") == engine.generate("What is rice?", None, max_new_tokens=8)


def test_a_part_that_is_said_to_be_foreign(client: openai.OpenAI, engine: Engine) -> None:
    content: Any = [{"type": "text", "text": ASK}, {"type": "text", "text": "Phnom 2", "language": "km"}]
    with pytest.raises(openai.UnprocessableEntityError, match="E504"):
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": content}], **SHORT)
    content[1] = {"type": "text", "text": AMHARIC, "language": "am"}
    made = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": content}], **SHORT)
    whole = client.chat.completions.create(model="auto", messages=[user(f"{ASK} {AMHARIC}")], **SHORT)
    assert made.choices[0].message.content == whole.choices[0].message.content


def test_stop_ends_an_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "km", "messages": [user(KHMER[2])], "max_tokens": 30}
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = whole[4:7]
    assert client.chat.completions.create(**asked, stop=stop).choices[0].message.content == whole[: whole.find(stop)]
    pieces = client.chat.completions.create(**asked, stop=[stop, "never"], stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == whole[: whole.find(stop)]


def test_sampling_is_what_temperature_asks_for(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "km", "messages": [user(KHMER[2])], "max_tokens": 20}
    said = {client.chat.completions.create(**asked, temperature=1.5).choices[0].message.content for _ in range(4)}
    assert len(said) > 1
    assert len({client.chat.completions.create(**asked, temperature=0).choices[0].message.content for _ in "12"}) == 1


def test_completions(client: openai.OpenAI, engine: Engine) -> None:
    made = client.completions.create(model="auto", prompt=[f"{ASK} {KHMER[0]}", "What is rice?"], **SHORT)
    expected = engine.chat([{"role": "user", "content": [ASK, Foreign(KHMER[0], "km")]}], max_new_tokens=8)
    assert [c.text for c in made.choices] == [expected, engine.generate("What is rice?", None, max_new_tokens=8)]
    pieces = client.completions.create(model="auto", prompt=f"{ASK} {KHMER[0]}", stream=True, **SHORT)
    assert "".join(p.choices[0].text for p in pieces) == expected


def test_embeddings(client: openai.OpenAI, engine: Engine) -> None:
    texts = [KHMER[0], SAMPLES[0].english, KHMER[1]]
    packed = client.embeddings.create(model="km", input=texts)  # the client asks for base64 by itself
    plain = client.embeddings.create(model="km", input=texts, encoding_format="float")
    found = torch.tensor([row.embedding for row in packed.data])
    assert torch.equal(found, torch.tensor([row.embedding for row in plain.data]))
    assert torch.equal(found[[0, 2]], engine.embed([KHMER[0], KHMER[1]], "km"))
    [(_, likeness)] = engine.rank(KHMER[0], [SAMPLES[0].english], "km")
    assert float(found[0] @ found[1]) == pytest.approx(likeness, abs=1e-5)
    assert packed.usage.prompt_tokens == sum(engine.encoder.count_tokens(texts))
    with pytest.raises(openai.UnprocessableEntityError, match="E556"):
        client.embeddings.create(model="auto", input="English alone.")


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"model": "xx"}, openai.NotFoundError, "E555"),
        ({"messages": []}, openai.UnprocessableEntityError, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, openai.UnprocessableEntityError, "role"),
        (
            {"messages": [user(KHMER[0]), {"role": "assistant", "content": "x"}]},
            openai.UnprocessableEntityError,
            "E517",
        ),
        ({"messages": [user(f"{KHMER[0]} and then also this: {AMHARIC}")]}, openai.UnprocessableEntityError, "E517"),
        ({"extra_body": {"task": "poem"}}, openai.UnprocessableEntityError, "task"),
        ({"extra_body": {"language": "xx"}}, openai.UnprocessableEntityError, "E201"),
        ({"extra_body": {"timeout": 0}}, openai.InternalServerError, "E514"),
        ({"temperature": 9}, openai.UnprocessableEntityError, "temperature"),
        ({"n": 2}, openai.UnprocessableEntityError, "n: "),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.UnprocessableEntityError, "tools"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_as_the_client_knows_them(
    client: openai.OpenAI, asked: Any, error: Any, says: str, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "auto", "messages": [user(KHMER[0])], "stream": stream, **asked})
    assert says in str(caught.value)
    assert caught.value.status_code == (504 if says == "E514" else 404 if says == "E555" else 422)


def test_libretranslate(served: Served, engine: Engine) -> None:
    client = LibreTranslateAPI(served.url)
    assert {row["code"] for row in client.languages()} == {"km", "am", "my", "en"}
    assert client.detect(KHMER[0])[0]["language"] == "km"
    expected = engine.generate(KHMER[0], "km")
    assert client.translate(KHMER[0], "km", "en") == client.translate(KHMER[0], "auto", "en") == expected
    assert client.translate("2024-05-01", "auto", "en") == "2024-05-01"
    for target, source in (("fr", "km"), ("en", "xx")):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            client.translate(KHMER[0], source, target)


def test_libretranslate_takes_json_lists_and_lines(served: Served, engine: Engine) -> None:
    asked = {"q": [f"{KHMER[0]}\n\n{KHMER[1]}", "Dear Sir,"], "source": "auto", "target": "en"}
    made = httpx.post(f"{served.url}/translate", json=asked, timeout=60).json()
    answers = [engine.generate(text, "km") for text in KHMER[:2]]
    assert made["translatedText"] == ["\n\n".join(answers), "Dear Sir,"]
    assert [found["language"] for found in made["detectedLanguage"]] == ["km", "en"]
    bad = httpx.post(f"{served.url}/translate", content=b"\xff\xfe", timeout=60)
    assert (bad.status_code, set(bad.json())) == (400, {"error"})


def test_health_ready_metrics(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{served.url}/ready").json() == {"status": "ready"}
    LibreTranslateAPI(served.url).translate(KHMER[3], "km", "en")
    assert served.idle()
    page = httpx.get(f"{served.url}/metrics").text
    for line in (
        'llink_requests_total{route="/translate",status="200"}',
        'llink_tokens_total{adapter="km",kind="answer"}',
        'llink_first_token_seconds_count{adapter="km"}',
        "llink_waiting_rows 0.0",
        "llink_slots_cache_hits_total",
    ):
        assert line in page
    assert served.serving.names.all()[0] == "auto"


def test_a_client_that_leaves_frees_its_row(served: Served) -> None:
    asked = {"model": "km", "messages": [user(KHMER[0])], "max_tokens": 900, "temperature": 1.3, "loop_guard": False}
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.Client(timeout=0.3) as client,
    ):
        client.post(f"{served.url}/v1/chat/completions", json=asked)
    assert served.idle()
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json={**asked, "stream": True}) as answer:
        next(answer.iter_lines())
    assert served.idle()
    assert all(not own["users"] for own in served.engine.stats()["adapters"].values())
