"""Specs of baselines that examples/evaluation/make_specs.py writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from unirep_feast.members import look_up
from unirep_feast.plugins import load_plugins
from unirep_feast.spec_file import load_spec
from unirep_feast.trio import choose

HERE = Path(__file__).parents[1] / "examples" / "evaluation"
DATA_SETS = ("ml-1m", "online-retail", "dunnhumby")


@pytest.fixture(scope="module")
def make_specs() -> ModuleType:
    place = importlib.util.spec_from_file_location("make_specs", HERE / "make_specs.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_every_made_spec_names_parts_that_there_are(
    make_specs: ModuleType, tmp_path: Path, data_set: str
) -> None:
    """With settings they know; members of a concatenation too."""
    paths = make_specs.write_specs(data_set, tmp_path / "specs")

    assert len(paths) == len(set(paths)) > 15
    for path in paths:
        spec = load_spec(path)
        choice = choose(spec, load_plugins())
        assert spec.name == path.stem
        settings = choice.settings["encoder"]
        if hasattr(settings, "members"):
            assert len(look_up(settings.members)) >= 2


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_paths_are_those_of_the_tasks(
    make_specs: ModuleType, tmp_path: Path, data_set: str
) -> None:
    """Wherever the specs are written to, events and items are the files the tasks are over."""
    tasks = yaml.safe_load((HERE / data_set / "tasks.yaml").read_text())

    for path in make_specs.write_specs(data_set, tmp_path / "deep" / "specs"):
        spec = load_spec(path)
        assert spec.events.path is not None and spec.items is not None
        for found, source in ((spec.events.path, "events"), (spec.items.path, "items")):
            wanted = HERE / data_set / tasks[source]["path"]
            assert Path(spec.resolve(found)).resolve() == wanted.resolve()
        assert spec.events.types == (tuple(tasks["events"].get("types", ())) or None)


def test_nothing_is_left_to_fill_in(make_specs: ModuleType, tmp_path: Path) -> None:
    """No spec holds a ``{placeholder}``."""
    for data_set in DATA_SETS:
        for path in make_specs.write_specs(data_set, tmp_path / data_set):
            assert "{" not in path.read_text().replace("{}", "")
