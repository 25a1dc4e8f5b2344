"""Zero-shot retrieval: how well the bare encoder, before any training, already puts translations side by side."""

from __future__ import annotations

from collections.abc import Sequence

from llink.data.pairs import Pair
from llink.features.cache import FeatureCache
from llink.training.ranks import answers, both_directions, chance


def zero_shot(cache: FeatureCache, pairs: Sequence[Pair]) -> dict[str, float]:
    """R@1/5/10, MRR and mean rank of the encoder's own sentence vectors, both directions, and chance beside them.

    Each side is centred on its own mean: most of what tells two sentences apart is otherwise their language.

    Args:
        cache: of the encoder; what it has not seen is encoded.
        pairs: N pairs, normalised as in training.

    Returns:
        ``candidates`` (N), ``chance`` (the R@1 of guessing, 1/N where no text stands in two pairs), and the numbers of ``both_directions``.
    """
    foreign, english = [p.foreign for p in pairs], [p.english for p in pairs]
    cache.ensure(foreign)
    cache.ensure(english, "Encoding English")
    vectors, targets, right = cache.pooled(foreign), cache.pooled(english), answers(pairs)
    metrics = both_directions(vectors - vectors.mean(0), targets - targets.mean(0), right)
    return {"candidates": len(pairs), "chance": chance(right), **metrics}
