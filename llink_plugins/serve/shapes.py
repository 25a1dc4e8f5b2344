"""OpenAI's requests and responses, with what LLINK adds to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llink.serving.reader import AUTO


def _unset(value: Any) -> Any:
    """What some clients send for an option that they do not use."""
    return None if value in ([], {}, "") else value


Unused = Annotated[None, BeforeValidator(_unset)]
"""An option that would change the answer and that the server does not have."""


class Shape(BaseModel):
    """No infinities; a field that neither OpenAI nor LLINK has is let be, as OpenAI lets it."""

    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=())


class StreamOptions(Shape):
    """What a stream tells besides."""

    include_usage: bool = False


class ResponseFormat(Shape):
    """Text is all that comes out."""

    type: Literal["text"] = "text"


class Asked(Shape):
    """What chat and completion have in common."""

    model: str = Field(AUTO, max_length=200, description="`auto`, a language or adapter, or the bare decoder")
    language: str = Field(AUTO, max_length=200, description="of all that is foreign; `auto` goes by script")
    task: Literal["translate", "summarize", "title", "keypoints", "qa"] | None = Field(
        None, description="in place of an instruction: the whole text is foreign"
    )
    verbatim: bool = Field(True, description="whether exact values go beside the slots")
    loop_guard: bool = Field(True, description="whether the answer is kept from repeating itself")
    timeout: float | None = Field(None, ge=0, le=86400, description="seconds until 504, within the server's own limit")
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=1 << 20)
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, is greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = Field(None, max_length=1000)
    n: Literal[1] | None = 1
    seed: int | None = None
    user: str | None = None
    response_format: ResponseFormat | None = None
    tools: Unused = None
    functions: Unused = None
    logit_bias: Unused = None

    def stops(self) -> list[str]:
        """What ends an answer."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in found if stop][:4]

    def options(self, most: int) -> dict[str, Any]:
        """For the engine; an answer has at most ``most`` tokens."""
        limit = min(self.max_tokens or 256, most)
        chosen: dict[str, Any] = {"max_new_tokens": limit, "verbatim": self.verbatim, "loop_guard": self.loop_guard}
        if self.temperature:
            chosen |= {"do_sample": True, "temperature": max(self.temperature, 0.01), "top_p": self.top_p or 1.0}
        return chosen


class TextPart(Shape):
    """A part of a message; one with a language is foreign whatever it is written in."""

    type: Literal["text"]
    text: str
    language: str | None = Field(None, max_length=200)


class Message(Shape):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=64)]


class ChatRequest(Asked):
    """A conversation; foreign text anywhere in it goes through slots."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 20)


class CompletionRequest(Asked):
    """Prompts, each answered as a message of its own."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]


class EmbeddingRequest(Shape):
    """Texts, in one language or several; English ones are put where the model's language has its own."""

    model: str = Field(AUTO, max_length=200)
    language: str = Field(AUTO, max_length=200, description="of all texts; `en` for English")
    input: str | Annotated[list[str], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Unused = None
    user: str | None = None


class Model(Shape):
    """A model as it is listed."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "llink"
    name: str = ""


class Models(Shape):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


class Used(Shape):
    """In tokens of the decoder."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int
    slots: int = Field(0, description="of `prompt_tokens`, those that stand for foreign text: slots and exact values")
    raw_tokens: int = Field(0, description="that the foreign text would have cost in their place")


class Said(Shape):
    """The answer's turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(Shape):
    """The one answer."""

    index: int = 0
    message: Said
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatResponse(Shape):
    """An answer in one piece."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Used


class TextChoice(Shape):
    """The answer to one prompt."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class CompletionResponse(Shape):
    """Answers in one piece each."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Used


class Embedding(Shape):
    """One text's vector: numbers, or the base64 of float32, lowest byte first."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Embeddings(Shape):
    """In the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Used
