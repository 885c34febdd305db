from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pluggy
import pyarrow as pa
import pytest
from pydantic import BaseModel, ValidationError

from unirep_feast import API_VERSION, hookspecs
from unirep_feast.encoder import Encoder
from unirep_feast.items import Vocabulary
from unirep_feast.objective import Objective
from unirep_feast.sampler import Sampler
from unirep_feast_clue import hooks
from unirep_feast_clue.config import (
    ClassifySettings,
    EncoderSettings,
    LabelsSettings,
    NextItemLossSettings,
    NextItemSettings,
    ObjectiveSettings,
    SamplerSettings,
)

ALL_SETTINGS = [
    ClassifySettings,
    EncoderSettings,
    LabelsSettings,
    NextItemLossSettings,
    NextItemSettings,
    ObjectiveSettings,
    SamplerSettings,
]


def _registered() -> dict[str, dict[str, tuple]]:
    manager = pluggy.PluginManager("unirep")
    manager.add_hookspecs(hookspecs)
    manager.register(hooks)
    manager.check_pending()
    found: dict[str, dict[str, tuple]] = {}
    for kind in ("encoders", "objectives", "samplers"):
        parts = found.setdefault(kind, {})
        hook = getattr(manager.hook, f"unirep_register_{kind}")
        hook(register=lambda name, *rest, parts=parts: parts.update({name: rest}))
    return found


def test_importing_the_hooks_imports_no_torch() -> None:
    """Listing plugins stays cheap."""
    check = "import sys, unirep_feast_clue.hooks; assert 'torch' not in sys.modules"

    subprocess.run([sys.executable, "-c", check], check=True)


def test_entry_point_leads_to_the_hooks() -> None:
    """The distribution announces itself under the name its parts begin with."""
    points = entry_points(group="unirep_feast", name="clue")

    assert [point.value for point in points] == ["unirep_feast_clue.hooks"]
    assert hooks.UNIREP_API == API_VERSION


def test_offers_and_builds_every_part() -> None:
    """Names are the paper's, and every part is built from its default settings."""
    found = _registered()
    vocabulary = Vocabulary(pa.array(["a", "b"]), pa.array([2, 1]))
    assert {kind: set(parts) for kind, parts in found.items()} == {
        "encoders": {"clue"},
        "objectives": {"clue", "clue.classify", "clue.next_item"},
        "samplers": {"clue", "clue.labels", "clue.next_item"},
    }

    build, settings = found["encoders"]["clue"]
    encoder = build(settings(), vocabulary, {})
    assert isinstance(encoder, Encoder)
    objectives = {k: build(s(), encoder) for k, (build, s) in found["objectives"].items()}
    samplers = {name: build(s()) for name, (build, s) in found["samplers"].items()}
    for name, objective in objectives.items():
        assert isinstance(objective, Objective) and isinstance(
            samplers_for(name, samplers), Sampler
        )
        assert objective.views <= samplers_for(name, samplers).views
        assert objective.requires <= encoder.provides


def samplers_for(objective: str, samplers: dict[str, Sampler]) -> Sampler:
    """The sampler each objective is meant for."""
    return samplers["clue.labels" if objective == "clue.classify" else objective]


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_settings_are_described_frozen_and_strict(settings: type[BaseModel]) -> None:
    """Every key has a default and a description; unknown keys and changes are refused."""
    built = settings()
    for name, field in settings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name
    with pytest.raises(ValidationError):
        settings.model_validate({"no_such_key": 1})
    with pytest.raises(ValidationError):
        setattr(built, next(iter(settings.model_fields)), 1)


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_settings_survive_yaml(settings: type[BaseModel]) -> None:
    """What a checkpoint stores gives the same settings back."""
    import yaml

    built = settings()
    again = settings.model_validate(yaml.safe_load(yaml.safe_dump(built.model_dump(mode="json"))))

    assert again == built


def test_defaults_are_the_papers() -> None:
    """Section V-A.5: 2 blocks, 4 heads, 64 dimensions, dropout 0.5, dropout as augmentation."""
    settings = EncoderSettings()

    assert (settings.backbone, settings.blocks, settings.heads) == ("sasrec", 2, 4)
    assert (settings.dim, settings.dropout, settings.max_events) == (64, 0.5, 50)
    assert SamplerSettings().augmentation == "dropout"
    assert ObjectiveSettings().predictor and ObjectiveSettings().stop_gradient


@pytest.mark.parametrize(
    ("settings", "wrong", "says"),
    [
        (EncoderSettings, {"dim": 10, "heads": 4}, "`heads` must divide `dim`"),
        (EncoderSettings, {"backbone": "lstm"}, "sasrec"),
        (SamplerSettings, {"mask": 0.95}, "0.9"),
        (SamplerSettings, {"augmentation": []}, "empty list"),
        (SamplerSettings, {"augmentation": ["dropout"]}, "mask"),
        (ClassifySettings, {"classes": 1}, "2"),
    ],
)
def test_wrong_settings_are_refused(
    settings: type[BaseModel], wrong: dict[str, object], says: str
) -> None:
    """Each message says what is allowed."""
    with pytest.raises(ValidationError) as caught:
        settings.model_validate(wrong)

    assert says in str(caught.value)
