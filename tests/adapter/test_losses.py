"""Every loss against a value worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from llink.adapter.losses.bag_of_words import BagOfWords
from llink.adapter.losses.cosine import Cosine
from llink.adapter.losses.direction import Direction
from llink.adapter.losses.info_nce import InfoNCE
from llink.adapter.losses.log_norm import LogNorm
from llink.adapter.losses.self_distillation import SelfDistillationKL
from llink.adapter.losses.usage_contrast import UsageContrast

EYE = torch.eye(2)


@pytest.mark.parametrize(("right", "zero", "value", "slope"), [(3.0, 2.0, 1.0, 1.0), (2.0, 3.0, 0.0, 0.0)])
def test_usage_contrast_costs_only_where_slots_hurt(right: float, zero: float, value: float, slope: float) -> None:
    with_slots, without = tensor(right, requires_grad=True), tensor(zero, requires_grad=True)
    loss = UsageContrast()(right=with_slots, zero=without)
    assert loss.item() == value
    loss.backward()
    # Going downhill lowers the loss with slots and raises the one without.
    assert (with_slots.grad, without.grad) == (slope, -slope)


def test_cosine() -> None:
    slots, targets = tensor([[[1.0, 0.0], [0.0, 2.0]]]), tensor([[[3.0, 0.0], [1.0, 0.0]]])
    assert Cosine()(slots=slots, targets=targets).item() == pytest.approx(1 - (1 + 0) / 2)
    assert Cosine()(slots=slots, targets=-slots).item() == pytest.approx(2)


def test_direction_knows_no_length() -> None:
    student, teacher = tensor([[5.0, 0.0], [0.0, 1.0]]), tensor([[0.1, 0.0], [3.0, 0.0]])
    # Equal directions cost 0, a right angle |(0, 1) - (1, 0)|^2 = 2.
    assert Direction()(student=student, teacher=teacher).item() == pytest.approx((0 + 2) / 2)


def test_log_norm_knows_no_direction() -> None:
    student, teacher = tensor([[math.e, 0.0], [0.0, 1.0]]), tensor([[0.0, 1.0], [math.e**2, 0.0]])
    assert LogNorm()(student=student, teacher=teacher).item() == pytest.approx((1**2 + 2**2) / 2, rel=1e-5)


def test_info_nce() -> None:
    # Scores are 1 on the diagonal, 0 beside it, over a temperature of 0.5.
    expected = -math.log(math.exp(2) / (math.exp(2) + 1))
    assert InfoNCE()(student=EYE * 3, teacher=EYE * 5, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)
    wrong = InfoNCE()(student=EYE, teacher=EYE.flip(0), temperature=0.5).item()
    assert wrong == pytest.approx(expected + 2, rel=1e-5)


def test_info_nce_is_symmetric() -> None:
    student, teacher = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).unbind()
    there = InfoNCE()(student=student, teacher=teacher, temperature=0.2)
    back = InfoNCE()(student=teacher, teacher=student, temperature=0.2)
    torch.testing.assert_close(there, back)


def test_info_nce_groups_are_no_negatives_of_each_other() -> None:
    student = tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    free = InfoNCE()(student=student, teacher=student, temperature=1.0)
    masked = InfoNCE()(student=student, teacher=student, temperature=1.0, groups=tensor([7, 7, 9]))
    one = math.log(1 + math.exp(-1))  # a row of two: itself, and the stranger
    two = math.log(1 + 2 * math.exp(-1))  # the stranger has both of them against it
    assert masked.item() == pytest.approx((one + one + two) / 3, rel=1e-5)
    assert free.item() > masked.item() + 0.2


def test_info_nce_takes_the_hardest_of_the_queue() -> None:
    queue = tensor([[-1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, -1.0]])
    # The hardest one of each row scores 0.8; it joins the student -> teacher side alone.
    forward = math.log(1 + 1 / math.e + math.exp(0.8) / math.e)
    backward = math.log(1 + 1 / math.e)
    loss = InfoNCE()(student=EYE, teacher=EYE, temperature=1.0, queue=queue, hardest=1)
    assert loss.item() == pytest.approx((forward + backward) / 2, rel=1e-5)
    more = InfoNCE()(student=EYE, teacher=EYE, temperature=1.0, queue=queue, hardest=99)
    rest = math.log(1 + (1 + math.exp(0.8) + math.exp(0.6) + math.exp(-1) + 1) / math.e)
    assert more.item() == pytest.approx((rest + backward) / 2, rel=1e-5)
    empty = InfoNCE()(student=EYE, teacher=EYE, temperature=1.0, queue=queue[:0])
    assert empty.item() == pytest.approx(backward, rel=1e-5)


def test_info_nce_meets_no_teacher_of_its_own_in_the_queue() -> None:
    queue = tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    given = {"student": EYE, "teacher": EYE, "temperature": 1.0, "queue": queue, "groups": tensor([7, 9])}
    free = InfoNCE()(**given, hardest=1)
    masked = InfoNCE()(**given, hardest=1, queue_groups=tensor([7, 5, 9]))
    # Each row's own teacher was the hardest; now the first has 0.6 of the stranger, the second 0.8.
    forward = sum(math.log(1 + 1 / math.e + math.exp(x) / math.e) for x in (0.6, 0.8)) / 2
    assert masked.item() == pytest.approx((forward + math.log(1 + 1 / math.e)) / 2, rel=1e-5)
    assert free.item() > masked.item()
    # Where nothing else is in the queue, it adds nothing.
    alone = InfoNCE()(**given, queue_groups=tensor([7, 7, 7]))
    assert torch.isfinite(alone)


def test_self_distillation_is_the_divergence_over_the_target() -> None:
    teacher, student = tensor([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]]), tensor([[0.2, 0.2, 0.6], [0.1, 0.8, 0.1]])
    own = tensor([[True, False]])
    loss = SelfDistillationKL()(logits=student[None].log() + 3, teacher_logits=teacher[None].log() - 1, own=own)
    expected = sum(t * math.log(t / s) for t, s in ((0.5, 0.2), (0.3, 0.2), (0.2, 0.6)))
    assert loss.item() == pytest.approx(expected, abs=1e-4)
    same = SelfDistillationKL()(logits=teacher[None].log(), teacher_logits=teacher[None].log(), own=own)
    assert same.item() == pytest.approx(0, abs=1e-6)


def test_self_distillation_of_a_large_vocabulary_is_a_lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(2, 1, 4, 300, generator=torch.Generator().manual_seed(1)).mul(3).unbind()
    own = torch.ones(1, 4, dtype=torch.bool)
    cheap = SelfDistillationKL()(logits=student, teacher_logits=teacher, own=own)
    whole = (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1).mean()
    assert 0.8 * whole < cheap < whole
    monkeypatch.setattr(SelfDistillationKL, "TOP", 300)
    assert SelfDistillationKL()(logits=student, teacher_logits=teacher, own=own).item() == pytest.approx(
        whole.item(), rel=1e-4
    )


def test_bag_of_words() -> None:
    vocabulary = torch.eye(3)
    slots = tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 5.0]]])
    # The first slot says the first word alone, the second one the second and the third word.
    wanted = tensor([[[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]])
    total = math.log(math.e + 2)
    expected = ((total - 1) + (0.5 * total + 0.5 * (total - 1))) / 2
    loss = BagOfWords()(slots=slots, vocabulary=vocabulary, wanted=wanted, temperature=1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    sharp = BagOfWords()(slots=slots[:, :1], vocabulary=vocabulary, wanted=wanted[:, :1], temperature=0.01)
    assert sharp.item() == pytest.approx(0, abs=1e-6)
