"""Cheap checks of a trio on a few users of the real log, before it trains or encodes.

The compliance kit tries every promise on made worlds; this tries, in milliseconds, the ones whose
breach would spoil vectors silently: ``encoders`` and ``views``.
"""

from __future__ import annotations

from unirep_feast.probing.encoders import probe_encoder
from unirep_feast.probing.views import difference, probe_sampler, view_problem

__all__ = ["difference", "probe_encoder", "probe_sampler", "view_problem"]
