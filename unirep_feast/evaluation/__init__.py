"""The benchmark for user vectors: what they tell of what comes next, beside honest baselines.

``tasks`` make labels from events after a cut-off, ``features`` fetches vectors as of it through
Feast, ``probes`` learn the one from the other, ``results`` keeps what came of it.
"""

from __future__ import annotations
