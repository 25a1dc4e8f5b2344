"""Tiny translation models of the true classes: NLLB, M2M100, Marian and MADLAD's T5, each with a real tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tiny import CORPUS
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    NllbTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from llink.testing.tiny import save_model

SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 300,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}


def nllb(folder: Path, texts: Sequence[str] = CORPUS) -> Path:
    """An ``M2M100ForConditionalGeneration`` with NLLB's tokenizer: `khm_Khmr text </s>`."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False))
    state = json.loads(bpe.to_str())["model"]
    tokenizer = NllbTokenizer(vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]])
    tokenizer.save_pretrained(folder)
    config = M2M100Config(vocab_size=len(tokenizer), decoder_start_token_id=2, **SIZES)
    return save_model(folder, M2M100ForConditionalGeneration, config)


def m2m100(folder: Path) -> Path:
    """An ``M2M100ForConditionalGeneration`` with M2M100's own tokenizer: `__km__ text </s>`."""
    pieces = _sentencepiece(folder, "sentencepiece.bpe")
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*specials, *pieces]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    size = len(vocabulary) + len(tokenizer.lang_code_to_id) + 8
    save_model(folder, M2M100ForConditionalGeneration, M2M100Config(vocab_size=size, decoder_start_token_id=2, **SIZES))
    weights = load_file(folder / "model.safetensors")
    # Or a random model says little but names of languages.
    weights["model.shared.weight"][len(vocabulary) :] *= 0.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def marian(folder: Path, targets: Sequence[str] = (), reads: str = "mul", writes: str = "en") -> Path:
    """A ``MarianMTModel``; with ``targets`` one to several languages, told by `>>eng<<` before the text."""
    pieces = _sentencepiece(folder, "source")
    (folder / "target.spm").write_bytes((folder / "source.model").read_bytes())
    (folder / "source.model").rename(folder / "source.spm")
    names = dict.fromkeys(
        ["</s>", "<unk>", *targets, *(p for p in pieces if p not in ("<s>", "</s>", "<unk>")), "<pad>"]
    )
    vocabulary = {piece: i for i, piece in enumerate(names)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"),
        str(folder / "target.spm"),
        str(folder / "vocab.json"),
        source_lang=reads,
        target_lang=writes,
    )
    tokenizer.save_pretrained(folder)
    pad = vocabulary["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocabulary),
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=0,
        num_beams=2,
        **SIZES,
    )
    save_model(folder, MarianMTModel, config)
    _generates(folder, num_beams=2, bad_words_ids=[[pad]])
    return folder


def madlad(folder: Path) -> Path:
    """A ``T5ForConditionalGeneration`` with MADLAD's way of asking: `<2en> text </s>`."""
    pieces = _sentencepiece(folder, "spiece")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    scores = [
        (piece, processor.get_score(i)) for i, piece in enumerate(pieces) if piece not in ("<s>", "</s>", "<unk>")
    ]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scores]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    tokenizer.add_tokens(["<2en>", "<2km>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    return save_model(folder, T5ForConditionalGeneration, config)


def taught(folder: Path, pairs: Sequence[tuple[str, str]], source: str = "khm_Khmr") -> Path:
    """An NLLB that has learnt (foreign, English) pairs by heart, asked as NLLB is; takes some ten seconds."""
    nllb(folder, [text for pair in pairs for text in pair])
    tokenizer = NllbTokenizer.from_pretrained(folder, src_lang=source, tgt_lang="eng_Latn")
    model: Any = M2M100ForConditionalGeneration.from_pretrained(folder).train()
    batch = tokenizer(
        [foreign for foreign, _ in pairs],
        text_target=[english for _, english in pairs],
        padding=True,
        return_tensors="pt",
    )
    batch["labels"][batch["labels"] == tokenizer.pad_token_id] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.02:
            break
    model.save_pretrained(folder)
    return folder


def _sentencepiece(folder: Path, name: str) -> list[str]:
    """A SentencePiece model ``NAME.model`` of the corpus; returns its pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(folder / name),
        vocab_size=400,
        model_type="unigram",
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / f"{name}.vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.model"))
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def _generates(folder: Path, **options: Any) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **options}), "utf-8")
