"""The kinds of tasks that come with the host; plugins add theirs by ``unirep_register_tasks``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from unirep_feast.evaluation.kinds.churn import ChurnSettings, ChurnTask
from unirep_feast.evaluation.kinds.impressions import (
    ImpressionSettings,
    ImpressionsTask,
    NewsTask,
)
from unirep_feast.evaluation.kinds.matching import (
    MatchingSettings,
    MatchingTask,
    NextItemSettings,
    NextItemTask,
)
from unirep_feast.evaluation.kinds.preference import (
    PreferenceSettings,
    PreferenceTask,
    PropensitySettings,
)
from unirep_feast.evaluation.kinds.profile import (
    ProfileSettings,
    ProfileTask,
    RegressionSettings,
    RegressionTask,
)
from unirep_feast.evaluation.kinds.value import ValueSettings, ValueTask
from unirep_feast.task import Task

#: By name: the pydantic model of its settings, and what builds the task from them.
BUILT_IN: Mapping[str, tuple[type[BaseModel], Callable[[Any], Task]]] = {
    "churn": (ChurnSettings, ChurnTask),
    "preference": (PreferenceSettings, PreferenceTask),
    "propensity": (PropensitySettings, PreferenceTask),
    "value": (ValueSettings, ValueTask),
    "matching": (MatchingSettings, MatchingTask),
    "next_item": (NextItemSettings, NextItemTask),
    "profile": (ProfileSettings, ProfileTask),
    "regression": (RegressionSettings, RegressionTask),
    "ctr": (ImpressionSettings, ImpressionsTask),
    "news": (ImpressionSettings, NewsTask),
}

__all__ = ["BUILT_IN"]
