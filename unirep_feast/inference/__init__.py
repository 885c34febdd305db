"""A run's encoder at work: ``users`` encodes histories, ``items`` the items in them."""

from __future__ import annotations

from unirep_feast.inference.items import embed_items
from unirep_feast.inference.users import Eligible, Inference, Progress, Shape

__all__ = ["Eligible", "Inference", "Progress", "Shape", "embed_items"]
