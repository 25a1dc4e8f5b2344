"""Vectors of foreign texts: their slots, their sentence vectors, and the order of English candidates by likeness."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llink.adapter.prompt import BATCH
from llink.errors import LlinkError
from llink.features.teacher import TeacherEncoder
from llink.language.text import normalise
from llink.recipe import Teacher
from llink.serving.reader import Reader
from llink.serving.shelf import Resident


def slots(reader: Reader, texts: Sequence[str], resident: Resident) -> Tensor:
    """``[N, k, D]``, float32; k is that of the longest of the texts.

    Raises:
        LlinkError: E510 for an empty text, E511 for one that is longer than the encoder reads.
    """
    pieces = reader.whole(texts, resident)
    most = max((piece.k for piece in pieces), default=resident.bridge.slots)
    found = reader.slots(pieces, resident, most)
    return torch.stack(found) if found else torch.empty(0, *resident.bridge.reserved.shape)


def embed(reader: Reader, texts: Sequence[str], resident: Resident) -> Tensor:
    """Unit vectors ``[N, D]``, or ``[N, H]`` where the adapter retrieves in the encoder's space; errors as for ``slots``."""
    return _aligned(reader, texts, resident).clone()  # an ordinary tensor


def rank(reader: Reader, query: str, candidates: Sequence[str], resident: Resident) -> list[tuple[int, float]]:
    """English candidates in the order of their likeness to a foreign query: (index, cosine), best first.

    They are compared where the adapter says: among the encoder's own vectors, or with the teacher states of stage A; the
    adapter's common means are taken out on both sides. The decoder has to be bare meanwhile.

    Raises:
        LlinkError: E510 for an empty query or candidate, E511 for a query that is longer than the encoder reads.
    """
    [wanted] = _aligned(reader, [query], resident)
    if not candidates:
        return []
    likeness = english(reader, candidates, resident).to(wanted) @ wanted
    order = likeness.argsort(descending=True, stable=True).tolist()
    return [(i, float(likeness[i])) for i in order]


def _aligned(reader: Reader, texts: Sequence[str], resident: Resident) -> Tensor:
    features = reader.features(reader.whole(texts, resident))
    like = resident.bridge.reserved
    with torch.inference_mode():
        pooled = [vector.to(like.device, like.dtype) for _, vector in features]
        nothing = like.new_empty(0, reader.pair.encoder.hidden_size)
        return resident.bridge.aligned(torch.stack(pooled) if pooled else nothing)


def english(reader: Reader, texts: Sequence[str], resident: Resident) -> Tensor:
    """Unit vectors of English texts, to be compared with those of ``embed``; the decoder has to be bare meanwhile.

    Raises:
        LlinkError: E510 for an empty text.
    """
    blank = [str(number) for number, text in enumerate(texts) if not normalise(text)]
    if blank:
        raise LlinkError("E510", f"Texts are empty: {', '.join(blank[:9])}, counted from 0.", "Leave them out.")
    with torch.inference_mode():
        found = _untouched(reader, texts, resident)
        return resident.bridge.english(found.to(resident.bridge.reserved)).clone()


def _untouched(reader: Reader, texts: Sequence[str], resident: Resident) -> Tensor:
    """Vectors of English texts, ``[N, H]`` of the encoder or teacher states ``[N, D]``."""
    if resident.bridge.space == "encoder":
        pieces = reader.tokenised([normalise(text) for text in texts], resident)
        return torch.stack([pooled for _, pooled in reader.features(pieces)])
    with reader.pair.wording:
        teacher = TeacherEncoder(reader.pair.decoder, Teacher(**resident.manifest.recipe["teacher"]))
        return torch.cat([teacher.encode(texts[i : i + BATCH]).pooled for i in range(0, len(texts), BATCH)])
