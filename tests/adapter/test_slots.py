"""Slots read by the decoder: the shared prefix, the labels, the gradients, and where generation stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from llink.adapter.prompt import SLOT, TASKS, Prompt, build
from llink.adapter.slots import generate, pad_left, prompt_embeddings, target_losses
from llink.interfaces import Decoder
from llink.store.models import load_decoder

TARGETS = ["My house is near the market.", "I am fine.", ""]
K = 4


@pytest.fixture(scope="module", params=["chatml_llama", "llama3", "qwen2"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def decoder(models: Callable[[str], str], name: str) -> Decoder:
    return load_decoder(models(name), dtype="float32")


def random_slots(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, K, 32, generator=torch.Generator().manual_seed(seed))


def plain_losses(folder: str, prompt: Prompt, slots: Tensor, target: list[int], end: int) -> Tensor:
    """The same by transformers alone: one row, the whole prompt, its own cross-entropy."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    table = model.get_input_embeddings().weight
    rows, slot = [], 0
    for i in [*prompt.ids, *target, end]:
        rows.append(slots[slot] if i == SLOT else table[i])
        slot += i == SLOT
    with torch.no_grad():
        logits = model(inputs_embeds=torch.stack(rows)[None]).logits[0]
    labels = [*target, end]
    first = len(prompt.ids) - 1
    scores = logits[first : first + len(labels)].log_softmax(-1)
    return -scores[torch.arange(len(labels)), torch.tensor(labels)]


def test_losses_are_those_of_the_whole_prompt(models: Callable[[str], str], name: str, decoder: Decoder) -> None:
    prompt, slots = build(decoder, TASKS["translate"], slots=K), random_slots(3)
    targets = [decoder.tokenize(t) for t in TARGETS]
    lengths = [len(t) + 1 for t in targets]
    losses = target_losses(decoder, prompt, slots, targets)
    assert losses.shape == (3, max(lengths))
    for row, target in enumerate(targets):
        expected = plain_losses(models(name), prompt, slots[row], target, decoder.end_of_turn)
        torch.testing.assert_close(losses[row, : lengths[row]], expected, atol=1e-4, rtol=1e-4)
        # Labels are the target and its end of turn: no more.
        assert not losses[row, lengths[row] :].any()


def test_labels_are_the_targets_only(decoder: Decoder) -> None:
    """What stands in the prompt costs nothing: a target of no tokens has one label, its end of turn."""
    losses = target_losses(decoder, build(decoder, "x", slots=K), random_slots(1), [[]])
    assert losses.shape == (1, 1)
    assert losses.item() > 0


def test_gradients_reach_every_slot(decoder: Decoder) -> None:
    prompt, slots = build(decoder, TASKS["translate"], slots=K), random_slots(2).requires_grad_()
    targets = [decoder.tokenize(t) for t in TARGETS[:2]]
    target_losses(decoder, prompt, slots, targets).sum().backward()
    assert slots.grad is not None
    assert (slots.grad.norm(dim=-1) > 1e-6).all()
    assert all(p.grad is None for p in decoder.model.parameters())


def test_a_row_reads_its_own_slots(decoder: Decoder) -> None:
    prompt, slots = build(decoder, TASKS["translate"], slots=K), random_slots(2)
    targets = [decoder.tokenize(TARGETS[0])] * 2
    losses = target_losses(decoder, prompt, slots, targets)
    swapped = target_losses(decoder, prompt, slots.flip(0), targets)
    torch.testing.assert_close(losses.flip(0), swapped, atol=1e-5, rtol=1e-5)
    assert (losses[0] - losses[1]).abs().max() > 0.01
    zero = target_losses(decoder, prompt, torch.zeros_like(slots), targets)
    assert (losses - zero).abs().max() > 0.01
    # Order among the slots counts too.
    assert (losses - target_losses(decoder, prompt, slots.flip(1), targets)).abs().max() > 0.01


def test_generation_begins_where_the_labels_begin_and_stops_at_the_end_of_turn(decoder: Decoder) -> None:
    """Overfit one answer on one row of slots; the decoder must then say it, all of it, and stop."""
    prompt, slots = build(decoder, TASKS["translate"], slots=K), random_slots(2)
    answers = ["My house is near the market.", "I am fine."]
    targets = [decoder.tokenize(a) for a in answers]
    model: Any = decoder.model
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = target_losses(decoder, prompt, slots, targets).sum() / sum(len(ids) + 1 for ids in targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
    embeds = prompt_embeddings(decoder, prompt, slots, slots.device)
    assert generate(decoder, embeds, max_new_tokens=40) == answers
    raw = model.generate(inputs_embeds=embeds[:1], max_new_tokens=len(targets[0]) + 1, do_sample=False)
    assert raw[0].tolist() == [*targets[0], decoder.end_of_turn]
    # A shorter prompt beside it, padded on the left, changes nothing.
    short = build(decoder, "Hi", slots=K)
    alone = generate(decoder, prompt_embeddings(decoder, short, slots[1:], slots.device), max_new_tokens=12)
    mixed, mask = pad_left([embeds[0], prompt_embeddings(decoder, short, slots[1:], slots.device)[0]])
    assert mask.sum(1).tolist() == [len(prompt.ids), len(short.ids)]
    assert generate(decoder, mixed, mask, 12) == [generate(decoder, embeds[:1], max_new_tokens=12)[0], *alone]


def test_prompt_without_slots(decoder: Decoder) -> None:
    prompt = build(decoder, "Hello")
    embeds = prompt_embeddings(decoder, prompt, None, torch.device("cpu"))
    assert prompt.slots == 0
    assert torch.equal(embeds[0], F.embedding(torch.tensor(prompt.ids), decoder.embedding_matrix()))
