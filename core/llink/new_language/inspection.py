"""The report before training: can this encoder read this language, and what would an adapter cost?"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llink.errors import LlinkError
from llink.interfaces import Decoder, Encoder, Language

if TYPE_CHECKING:
    from llink.data.pairs import Pair
    from llink.recipe import Recipe
    from llink.store.registry import Role
    from llink.training.estimate import Estimate

# Measured with Gemma 3 270M on the Universal Declaration of Human Rights in 40 languages (about 50 pairs, chance 0.02).
# Guessing puts one pair right, however many there are. All 8 scripts that its tokenizer has only as bytes stayed under
# three (Adlam 2.5, Yi 2.0, Cherokee 0.5), and so did languages in known letters that it never learnt (Quechua 1.5,
# Somali 0.5). Then come Tigrinya 3.5, Dhivehi 5.0, Swahili 7.5, Lao 11.5, Khmer 21.
ABOVE_CHANCE = 3.0
"""R@1 below this many times chance is no reading at all."""
# 200 dev pairs of languages that were trained with it: R@1 from 0.17 (Amharic software text) to 0.65 (Khmer prose).
WELL = 0.15
"""R@1 from which the bridge has something to start from."""
LOST = 0.5
"""From this share of unreadable tokens on, the script itself is strange to the tokenizer."""
LOOKED_AT = 200
ANSWERED = 40
"""Texts that the shared adapter translates, where there is one."""
FEWEST = 20
"""With fewer pairs, two lucky hits look like reading."""


@dataclass(frozen=True)
class Fragmentation:
    """What a tokenizer makes of a language.

    Attributes:
        tokens: mean number of tokens of a foreign text.
        english_tokens: mean number of tokens of its English.
        ratio: tokens for what English says in one token; 1 is as good as English.
        per_character: tokens a foreign character, white space left out.
        unreadable: share of the tokens with letters that are unknown or a mere piece of a character;
            None where the tokenizer cannot say.
    """

    tokens: float
    english_tokens: float
    ratio: float
    per_character: float
    unreadable: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the encoder reads the language: ``yes``, ``poorly``, ``no`` or ``unknown``; why; what to do."""

    reads: str
    why: str
    advice: str = ""


@dataclass(frozen=True)
class DataCounts:
    """The recipe's training pairs by source and licence, after its filters; ``missing`` says why there are none."""

    pairs: int = 0
    sources: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    english: int = 0
    english_licence: str = ""
    missing: str = ""


@dataclass(frozen=True)
class SharedReading:
    """The shared adapter on pairs that it was not trained on.

    Attributes:
        r1: of all looked at, to English.
        chrf: chrF++ of the translations of the first ``answered``.
        examples: up to three of them: text, English, answer.
    """

    r1: float
    chrf: float
    answered: int
    examples: list[dict[str, str]]


@dataclass(frozen=True)
class Report:
    """All that ``llink inspect`` says; ``dataclasses.asdict`` makes JSON of it."""

    language: str
    name: str
    encoder: str
    decoder: str
    recipe: str
    looked_at: str
    pairs: int
    encoder_tokens: Fragmentation
    decoder_tokens: Fragmentation
    zero_shot: dict[str, float]
    shared: SharedReading | None
    """What the shared adapter makes of the same pairs; None where there is none for this pair of models."""
    verdict: Verdict
    data: DataCounts
    estimate: Estimate


def inspect(language: Language, recipe: Recipe, data: Path, pairs: int = LOOKED_AT) -> Report:
    """Load both models, look at ``pairs`` pairs, measure a few steps of every part of the recipe.

    Args:
        language: whose dev pairs, or samples where there are none, are looked at.
        recipe: names models, data and amounts.
        data: folder that the recipe's data paths are relative to.
        pairs: how many, at most.

    Raises:
        LlinkError: E228 when there is no pair to look at; those of loading the models.
    """
    looked_at, rows = find_pairs(language, recipe, data, pairs)

    from llink.evaluation.zero_shot import zero_shot
    from llink.features.cache import FeatureCache
    from llink.home import home
    from llink.store.models import load_decoder, load_encoder
    from llink.training.estimate import estimate
    from llink.training.loop import accelerator_for

    accelerator = accelerator_for(recipe.device)
    device = str(accelerator.device) if recipe.device == "auto" else recipe.device
    dtype = None if recipe.dtype == "auto" else recipe.dtype
    encoder = load_encoder(recipe.encoder.name, device=device, dtype=dtype, **recipe.encoder.options)
    decoder = load_decoder(recipe.decoder.name, device=device, dtype=dtype, **recipe.decoder.options)
    cache = FeatureCache(home() / "features", encoder)
    texts = [(p.foreign, p.english) for p in rows]
    encoder_tokens = fragmentation(texts, encoder.count_tokens, _unreadable(encoder))
    metrics = zero_shot(cache, rows)
    counts, training, english = _data(language, recipe, data)
    return Report(
        language=language.code,
        name=language.name,
        encoder=encoder.name,
        decoder=decoder.name,
        recipe=recipe.name,
        looked_at=looked_at,
        pairs=len(rows),
        encoder_tokens=encoder_tokens,
        decoder_tokens=fragmentation(texts, lambda ts: [len(decoder.tokenize(t)) for t in ts], _unreadable(decoder)),
        zero_shot=metrics,
        shared=shared_reading(rows, recipe.encoder.name, encoder, decoder),
        verdict=judge(language.name, encoder.name, encoder_tokens, metrics),
        data=counts,
        estimate=estimate(
            recipe, encoder, decoder, cache, training or rows, english, accelerator, assumed=not training
        ),
    )


def shared_reading(rows: Sequence[Pair], name: str, encoder: Encoder, decoder: Decoder) -> SharedReading | None:
    """Retrieve and translate with the shared adapter, as a user of the language would get it today.

    Args:
        name: what the encoder is loaded by, where the adapter reads it with other options.
    """
    from sacrebleu.metrics import CHRF

    from llink.adapter.files import find_adapter, read_manifest
    from llink.adapter.shared import SHARED, has_shared
    from llink.features.cache import FeatureCache
    from llink.features.teacher import TeacherEncoder
    from llink.home import home
    from llink.plugins import language
    from llink.progress import track
    from llink.recipe import Teacher
    from llink.serving.engine import Engine
    from llink.training.ranks import answers, retrieval_metrics

    if not has_shared(encoder.name, decoder.name):
        return None
    manifest = read_manifest(find_adapter(language(SHARED), encoder.name, decoder.name))
    loaded = encoder if encoder.signature == manifest.encoder_signature else name
    engine = Engine(decoder, loaded, device=str(decoder.embedding_matrix().device))
    resident = engine.resident(SHARED)
    cache = FeatureCache(home() / "features", engine.encoder)
    cache.ensure([p.foreign for p in rows])
    english = [p.english for p in rows]
    if resident.bridge.space == "encoder":
        cache.ensure(english, "Encoding English")
        vectors = cache.pooled(english)
    else:
        taught = FeatureCache(
            home() / "features", TeacherEncoder(decoder, Teacher(**resident.manifest.recipe["teacher"]))
        )
        taught.ensure(english, "Teacher states")
        vectors = taught.pooled(english)
    like = resident.bridge.reserved
    aligned = resident.bridge.aligned(cache.pooled([p.foreign for p in rows]).to(like))
    found = retrieval_metrics(aligned.cpu(), resident.bridge.english(vectors.to(like)).cpu(), answers(rows))
    few, said = rows[:ANSWERED], list[str]()
    with track("Shared adapter", total=len(few), unit="text") as advance:
        for start in range(0, len(few), 8):
            said += engine.generate([p.foreign for p in few[start : start + 8]], SHARED, max_new_tokens=96)
            advance(len(few[start : start + 8]))
    engine.close()
    score = CHRF(word_order=2).corpus_score(said, [[p.english for p in few]]).score
    examples = [
        {"text": p.foreign, "english": p.english, "answer": answer} for p, answer in zip(few, said, strict=True)
    ]
    return SharedReading(found["r1"], score, len(few), examples[:3])


def find_pairs(language: Language, recipe: Recipe, data: Path, limit: int) -> tuple[str, list[Pair]]:
    """Where pairs were found, and up to ``limit`` of them, evenly from all dev sets; else the language's samples, else the
    names of countries in it.

    A text stands in one pair only: its second translation would be a right answer counted as wrong.
    """
    from llink.data.pairs import Pair, dev_pairs, share
    from llink.language.iso import country_names

    found: dict[str, list[Pair]] = {}
    missing = []
    for name in recipe.data.dev:
        try:
            found[name] = sorted(
                dev_pairs(recipe.data, data, name, language.normalise).rows, key=lambda p: share(p.english)
            )
        except LlinkError as error:
            missing.append(error.message)
    normal = language.normalise
    if not found and language.samples:
        found["samples"] = [Pair(normal(s.english), normal(s.foreign)) for s in language.samples]
    elif not found:
        names = sorted(country_names(language.code), key=lambda names: share(names[0]))
        found["names of countries (CLDR)"] = [Pair(english, normal(own)) for english, own in names]
    rows: list[Pair] = []
    seen: set[str] = set()
    for pair in _in_turns(found.values()):
        if len(rows) < limit and seen.isdisjoint((pair.english, pair.foreign)):
            seen |= {pair.english, pair.foreign}
            rows.append(pair)
    if len(rows) < 2:
        raise LlinkError(
            "E228",
            f"{language.name} has no pairs to look at: no samples, and no dev set. {' '.join(missing)}".strip(),
            f"Give the folder of its data with --data, or get some: llink data harvest {language.code}.",
        )
    return ", ".join(found), rows


def _in_turns(lists: Iterable[list[Pair]]) -> Iterable[Pair]:
    """The first of each list, then the second of each, to the end of the longest."""
    return (pair for turn in zip_longest(*lists) for pair in turn if pair is not None)


def fragmentation(
    pairs: Sequence[tuple[str, str]],
    count: Callable[[Sequence[str]], list[int]],
    unreadable: Callable[[Sequence[str]], float] | None = None,
) -> Fragmentation:
    """Count the tokens of both sides.

    Args:
        pairs: (foreign, English), at least one.
        count: number of tokens of each text; ``Encoder.count_tokens``, or ``TokenizerCounts.count``.
        unreadable: share of lost tokens of the foreign texts, as ``TokenizerCounts.unreadable``.
    """
    foreign, english = [f for f, _ in pairs], [e for _, e in pairs]
    tokens, english_tokens = sum(count(foreign)), sum(count(english))
    characters = sum(len("".join(text.split())) for text in foreign)
    return Fragmentation(
        tokens=tokens / len(pairs),
        english_tokens=english_tokens / len(pairs),
        ratio=tokens / max(english_tokens, 1),
        per_character=tokens / max(characters, 1),
        unreadable=unreadable(foreign) if unreadable else None,
    )


class TokenizerCounts:
    """Counts with a Hugging Face tokenizer alone, no model weights loaded."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._kinds: dict[int, str] = {}

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, without BOS or EOS."""
        return [len(ids) for ids in self._ids(texts)]

    def unreadable(self, texts: Sequence[str]) -> float:
        """Share of the tokens with letters that are unknown, or bytes that make no whole character.

        Blanks, digits and marks are left out: where a tokenizer has one "unknown" for a whole word, they
        would be half of all tokens.
        """
        kinds = Counter(self._kind(i) for ids in self._ids(texts) for i in ids)
        return kinds["lost"] / max(kinds["lost"] + kinds["letters"], 1)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False).input_ids
        return rows

    def _kind(self, token: int) -> str:
        if token not in self._kinds:
            text = self.tokenizer.decode([token])
            whole = text.replace("\N{REPLACEMENT CHARACTER}", "")
            if token == self.tokenizer.unk_token_id or (text and not whole):
                self._kinds[token] = "lost"
            else:
                self._kinds[token] = "letters" if any(unicodedata.category(c)[0] in "LM" for c in whole) else "other"
        return self._kinds[token]


def _unreadable(model: Encoder | Decoder) -> Callable[[Sequence[str]], float] | None:
    """None for a backend of its own kind, which has no Hugging Face tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    return TokenizerCounts(tokenizer).unreadable if hasattr(tokenizer, "unk_token_id") else None


def stored_tokenizer(name: str, role: Role) -> TokenizerCounts | None:
    """The tokenizer of a model whose files are on this disk already, weights untouched; nothing is fetched.

    None where the model is not stored, or keeps no tokenizer that transformers can read.

    Raises:
        LlinkError: E101, E103, E115 as ``llink.store.ensure``.
    """
    from llink.store import ensure, status

    known = {model.name: model for model in status()}
    if name in known and not known[name].stored:
        return None
    folder = ensure(name, role).path

    from transformers import AutoTokenizer

    try:
        return TokenizerCounts(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError):
        return None


def judge(language: str, encoder: str, tokens: Fragmentation, metrics: dict[str, float]) -> Verdict:
    """Whether the encoder reads the language, from zero-shot retrieval; the tokenizer says why it does not.

    Args:
        language, encoder: names, for the words.
        tokens: the encoder's fragmentation.
        metrics: of ``zero_shot``.
    """
    strange = tokens.unreadable is not None and tokens.unreadable >= LOST
    why_strange = f"{tokens.unreadable or 0:.0%} of its tokens are unknown or pieces of characters"
    elsewhere = "Try another encoder with --encoder (`llink models` lists them; xlm-roberta-base knows 100 languages)"
    if metrics["candidates"] < FEWEST:
        if strange:
            return Verdict("no", f"{encoder} cannot read {language}: {why_strange}.", f"{elsewhere}.")
        few = f"{metrics['candidates']:.0f} pairs are too few to tell whether {encoder} reads {language}."
        return Verdict("unknown", few, f"Give at least {FEWEST}, with --data.")
    r1 = (metrics["r1"] + metrics["back_r1"]) / 2
    times = r1 / metrics["chance"]
    found = f"untrained, it finds {r1:.0%} of the translations, {times:.1f} times what guessing finds"
    # Names and numbers in other letters are found without reading a word of the rest.
    if times < ABOVE_CHANCE or (strange and r1 < WELL):
        because = why_strange if strange else "it knows the letters, but not the language"
        return Verdict(
            "no",
            f"{encoder} cannot read {language}: {found}; {because}.",
            f"{elsewhere}. With this one, no training will help.",
        )
    if r1 < WELL:
        return Verdict(
            "poorly",
            f"{encoder} reads {language} poorly: {found}.",
            f"{elsewhere}, or more training pairs; expect the gist at best.",
        )
    return Verdict("yes", f"{encoder} reads {language}: {found}.")


def _data(language: Language, recipe: Recipe, data: Path) -> tuple[DataCounts, list[Pair], list[str]]:
    """Counts of the training data, the pairs and the general English; what is missing is said, not raised."""
    from llink.data.pairs import english_text, training_pairs

    try:
        read = training_pairs(recipe.data, data, language.normalise)
        english, english_sources = english_text(recipe.data, data, language.normalise)
    except LlinkError as error:
        if error.code not in ("E210", "E211"):
            raise
        return DataCounts(missing=error.message), [], []
    counts = Counter((pair.source, pair.licence) for pair in read.rows)
    sources = [{"source": s, "licence": li, "pairs": n} for (s, li), n in counts.most_common()]
    found = DataCounts(
        len(read.rows),
        sources,
        dict(read.skipped),
        len(english),
        ", ".join(dict.fromkeys(row["licence"] for row in english_sources.values())),
    )
    return found, read.rows, english
