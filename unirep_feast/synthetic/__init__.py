"""A synthetic world with known truth: personas, drift, seasons, labels and churn, of any size.

``write_world(World(users=200_000), folder)`` writes events, items and users as parquet; the truth
behind them is in ``users.parquet`` (mixtures, churn) and in :func:`truth_of` (personas, items).
"""

from __future__ import annotations

from unirep_feast.synthetic.check import WorldCheck, check_world
from unirep_feast.synthetic.truth import Truth, truth_of
from unirep_feast.synthetic.world import World, parse_world
from unirep_feast.synthetic.writer import WorldReport, write_world

__all__ = [
    "Truth",
    "World",
    "WorldCheck",
    "WorldReport",
    "check_world",
    "parse_world",
    "truth_of",
    "write_world",
]
