from __future__ import annotations

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
    ObjectiveSettings,
    SamplerSettings,
)

#: Each objective with the sampler it is meant for.
SAMPLERS = {
    "clue": "clue",
    "clue.classify": "clue.labels",
    "clue.next_item": "clue.next_item",
}


def test_offers_and_builds_every_part() -> None:
    """Every part is built from its default settings, and objectives fit their samplers."""
    manager = pluggy.PluginManager("unirep")
    manager.add_hookspecs(hookspecs)
    manager.register(hooks)
    manager.check_pending()
    found: dict[str, dict[str, tuple]] = {}
    for kind in ("encoders", "objectives", "samplers"):
        parts = found.setdefault(kind, {})
        hook = getattr(manager.hook, f"unirep_register_{kind}")
        hook(register=lambda name, *rest, parts=parts: parts.update({name: rest}))
    assert hooks.UNIREP_API == API_VERSION
    assert set(found["encoders"]) == {"clue"}
    assert set(found["objectives"]) == set(SAMPLERS)
    assert set(found["samplers"]) == set(SAMPLERS.values())

    build, settings, prepare = found["encoders"]["clue"]
    assert prepare(settings(), None, None, None) == {}  # nothing is fitted for a random start
    encoder = build(settings(), Vocabulary(pa.array(["a", "b"]), pa.array([2, 1])), {})
    assert isinstance(encoder, Encoder)
    samplers = {name: build(s()) for name, (build, s) in found["samplers"].items()}
    for name, (build, settings) in found["objectives"].items():
        objective, sampler = build(settings(), encoder), samplers[SAMPLERS[name]]

        assert isinstance(objective, Objective) and isinstance(sampler, Sampler)
        assert objective.views <= sampler.views
        assert objective.requires <= encoder.provides


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
