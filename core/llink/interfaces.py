"""What a plugin may provide: Encoder, Decoder, Projector, SlotInjector, Loss, Language.

Shapes: B batch, T tokens, K slots, H encoder hidden size, D decoder hidden size.
torch is imported for type checking only, so that listing plugins stays instant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What the projections that LoRA is put on are called in nearly every decoder of transformers."""


@dataclass
class Encoded:
    """What an encoder makes of B texts.

    Attributes:
        states: token states, ``[B, T, H]``; rows beyond a text's length hold zeros.
        mask: ``[B, T]`` bool, True on the text's own tokens (no BOS, no padding).
        pooled: one sentence vector a text, ``[B, H]`` (zF in the paper).
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor


class Encoder(ABC):
    """A frozen multilingual encoder: texts in, token states and sentence vectors out."""

    name: str
    hidden_size: int
    max_tokens: int
    fingerprint: str
    """sha256 over the weights; an adapter is refused on another one."""
    signature: str
    """Everything that decides the features (fingerprint, layer, pooling, limit): the cache key."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text's own tokens, before any truncation."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of encoder tokens of each text, before any truncation."""
        return [len(tokens) for tokens in self.tokenize(texts)]

    def known_share(self, text: str) -> float:
        """Share of a text's characters that the tokenizer has tokens for, white space left out; 1 where it cannot say."""
        return 1.0

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode B texts without gradients; text beyond ``max_tokens`` is cut off."""
        return self.encode_tokens(self.tokenize(texts))

    @abstractmethod
    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Encoded:
        """As ``encode``, of the tokens of B texts as ``tokenize`` gives them."""


class Decoder(ABC):
    """A frozen decoder-only language model with its tokenizer and chat template."""

    name: str
    hidden_size: int
    fingerprint: str
    model: nn.Module
    """The causal LM; called with ``inputs_embeds``. Never trained, never resized."""
    lora_targets: tuple[str, ...]
    """Names of the attention and MLP projections that LoRA is put on."""
    end_of_turn: int
    """Token id that ends an assistant turn: the last label of every training example."""
    stop_ids: tuple[int, ...]
    """Token ids that end generation (the end of turn among them)."""

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """Ids of user text: plain text only, special tokens in it are spelled out as characters."""

    @abstractmethod
    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""

    @abstractmethod
    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int | str]:
        """The chat template around ``messages`` up to the assistant's first token.

        Returns the template's own tokens as ids and each message's content as the string it was,
        in order, so that content is tokenised apart and cannot smuggle in a special token.
        """

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings ``[..., D]`` of ``ids [...]``."""

    @abstractmethod
    def embedding_matrix(self) -> Tensor:
        """The input embedding matrix, ``[V, D]``, not to be changed."""


class Projector(ABC):
    """Carries a sentence vector into the decoder's hidden space; implementations are ``nn.Module`` too."""

    teacher_mean: Tensor
    """A buffer ``[D]``, zeros at first: the mean of the teacher states, where stage A takes it out of them."""

    @abstractmethod
    def fit_input(self, pooled: Tensor) -> None:
        """Take what is needed of the training vectors ``[N, H]``, such as mean and deviation."""

    @abstractmethod
    def forward(self, pooled: Tensor) -> Tensor:
        """zF ``[B, H]`` -> pF ``[B, D]``."""


class SlotInjector(ABC):
    """Widens a projected sentence to soft tokens, K at most; implementations are ``nn.Module`` too."""

    needs_states: ClassVar[bool] = False
    """Whether ``forward`` reads the encoder's token states, or the projected vector alone."""
    slots: int
    """K."""

    def fit_input(self, states: Tensor) -> None:  # noqa: B027 (optional, not abstract)
        """Take what is needed of training token states ``[N, H]``; asked only where ``needs_states``."""

    @abstractmethod
    def forward(self, projected: Tensor, states: Tensor, mask: Tensor, slots: int) -> Tensor:
        """pF ``[B, D]``, states ``[B, T, H]``, mask ``[B, T]`` -> slots ``[B, k, D]`` at embedding norm.

        ``slots`` is k, from 1 to K: made of the same weights, the first k rows of whatever has K of them.
        """


class Loss(ABC):
    """A term of a training objective; any function like ``__call__`` will do as well.

    The parameters of ``__call__`` say what it needs, by name: a stage computes and passes those and no others, and
    leaves the term out in a step that has not all of them. It returns a scalar.
    """

    __call__: Callable[..., Tensor]


@dataclass(frozen=True)
class LossTerm:
    """A loss under the name by which recipes weight it and logs show it.

    ``make()`` returns the ``Loss``; it is called only where the weight is above 0, so that is the place to import
    torch.
    """

    name: str
    stages: tuple[str, ...]
    """The sections of a recipe whose ``losses`` may name it: ``stage_a``, ``warm_start``, ``stage_b`` (and so ``stage_c``)."""
    make: Callable[[], Callable[..., Tensor]]
    needs: str = ""
    """What it needs and costs, in one line."""


@dataclass(frozen=True)
class ProjectorKind:
    """A projector under the name by which recipes choose it (``projector.kind``).

    ``make(encoder_size=H, decoder_size=D, hidden=..., dropout=...)`` returns the ``Projector``; it is the place to
    import torch.
    """

    name: str
    make: Callable[..., Any]
    what: str = ""
    """What it is, in one line."""


@dataclass(frozen=True)
class InjectorKind:
    """A slot injector under the name by which recipes choose it (``injector.kind``).

    ``make(encoder_size=H, decoder_size=D, slots=K, slot_norm=..., **options)`` returns the ``SlotInjector``; it is
    the place to import torch. ``slot_norm`` is the median norm of the decoder's embedding rows, ``options`` those of
    the recipe. An adapter is made of the same arguments again when it is loaded.
    """

    name: str
    make: Callable[..., Any]
    what: str = ""
    """What it is, in one line."""
    check: Callable[[Mapping[str, Any]], None] | None = None
    """Raises ValueError for ``options`` that it cannot be made of: they may come from a stranger's adapter."""


@dataclass(frozen=True)
class Sample:
    """One sentence with its English translation, written for this project."""

    foreign: str
    english: str


@dataclass(frozen=True)
class Source:
    """Where parallel text of a language can be had, and under which licence."""

    name: str
    where: str
    licence: str


@dataclass(frozen=True)
class Language:
    """All that LLINK knows of a language; a plugin makes one and may override its methods."""

    code: str
    """ISO 639-1 where there is one, else ISO 639-3."""
    code3: str
    name: str
    scripts: tuple[str, ...]
    """Unicode script names as in ``unicodedata`` character names, upper case: ``KHMER``."""
    package: str
    """The Python package that holds ``recipes/`` and ``adapters/``."""
    endonym: str = ""
    samples: tuple[Sample, ...] = ()
    sources: tuple[Source, ...] = ()
    sentence_ends: str = ".!?"
    digits: str = "0123456789"
    """The ten that it writes numbers in, 0 first; whatever they are, every decimal digit of Unicode is read as one."""
    joiners: bool = True
    """Whether ZWJ and ZWNJ are spelling where Unicode's rules for its letters give them a meaning, as in Persian, Sinhala
    and Malayalam. False for a language that does without: then they stay in emoji alone."""

    def normalise(self, text: str) -> str:
        """One spelling for one text: NFC, no invisible marks but ``joiners``, single spaces, none before a sentence end.

        What it returns is what the encoder sees; applied twice it changes nothing.
        """
        from llink.language.text import close_up, normalise

        return close_up(normalise(text, self.joiners), self.sentence_ends)

    def sentences(self, text: str) -> list[str]:
        """``text`` cut after each sentence end; joined again they give the same words."""
        from llink.language.text import split_sentences

        return split_sentences(text, self.sentence_ends)

    def ascii_digits(self, text: str) -> str:
        """``text`` with every decimal digit of Unicode, and the language's own whatever they are, as 0-9."""
        from llink.language.unicode import ascii_digits

        return ascii_digits(text.translate(str.maketrans(self.digits, "0123456789")))

    def verbatim(self, text: str) -> list[str]:
        """What of ``text`` an answer must not paraphrase, as English writes it, in order of appearance, each once.

        The default finds numbers, units, dates, addresses, codes, placeholders, names in Latin letters and those in
        ``names.yaml`` of the package. It is asked for normalised foreign text, and in training for English text too.
        """
        from llink.language.values import find

        return find(text, self)

    def likelihood(self, text: str) -> float | None:
        """How likely it is that ``text``, in this language's script, is in this language, from 0 to 1.

        0.5 says that the text gives no sign. None (the default): the language has no detector of its own.
        """
        return None


@dataclass(frozen=True)
class EncoderBackend:
    """How one family of encoders is loaded from a local folder.

    ``load(path, name=..., fingerprint=..., device=..., dtype=..., **options)`` returns an Encoder.
    """

    name: str
    load: Any
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True)
class DecoderBackend:
    """How one family of decoders is loaded from a local folder; ``load`` as for EncoderBackend."""

    name: str
    load: Any
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Broken:
    """A row that is damaged, and in a few words how."""

    why: str


Row = tuple[str, Mapping[str, Any] | str | Broken | None]
"""A place ("file:line") and what stands there: the fields of a pair, why it is left out, or ``Broken`` (None where nothing
more is known of the damage)."""


@dataclass(frozen=True)
class PairReader:
    """How one format of parallel text is read, row by row.

    ``read(where, language, columns)`` yields a ``Row`` for each row. ``where`` is the path of a file whose name ends
    in one of ``suffixes``, or all of a source that begins with ``prefix``. ``language`` is the code of the foreign
    side, or None; ``columns`` says which fields hold ``english`` and ``foreign`` where they go by other names. A pair
    has these two fields, and ``source`` and ``licence`` where they are known. An exception means that the file is
    damaged.
    """

    name: str
    read: Callable[[str, str | None, Mapping[str, str]], Iterator[Row]]
    suffixes: tuple[str, ...] = ()
    prefix: str = ""
    layout: str = ""
    """What a row looks like, for the error that finds none."""


def package_folder(package: str, folder: str) -> Path:
    """The folder of data files inside an installed package, without importing its code."""
    import importlib.util
    from pathlib import Path as _Path

    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return _Path("/nonexistent") / package / folder
    return _Path(next(iter(spec.submodule_search_locations))) / folder
