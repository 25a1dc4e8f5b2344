"""Losses of stage A and stage B, one a file, each called with keyword arguments."""

from __future__ import annotations

from llink.losses.bag_of_words import BagOfWords
from llink.losses.cosine import Cosine
from llink.losses.direction import Direction
from llink.losses.info_nce import InfoNCE
from llink.losses.log_norm import LogNorm
from llink.losses.usage_contrast import UsageContrast

__all__ = ["BagOfWords", "Cosine", "Direction", "InfoNCE", "LogNorm", "UsageContrast"]
