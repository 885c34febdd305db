"""Parts of different plugins go together where plugins/README.md says so, and nowhere else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from unirep_feast.batch import SequenceBatch
from unirep_feast.errors import ContractError
from unirep_feast.events import TIME_TYPE
from unirep_feast.plugins import load_plugins
from unirep_feast.registry import Role
from unirep_feast.testing.recipe import registered, train, vectors
from unirep_feast.testing.world import World, make_world
from unirep_feast.trio import Trio

ROOT = Path(__file__).parents[1]
README = ROOT / "plugins" / "README.md"

#: Sizes that make a step take milliseconds; parts that are not named have their defaults.
SMALL: dict[tuple[Role, str], dict[str, Any]] = {
    ("encoder", "clue"): {"dim": 16, "heads": 2, "max_events": 24},
    ("encoder", "guim"): {"dim": 16, "vectors": 2, "layers": 1, "max_events": 24},
    ("encoder", "icl"): {"dim": 16, "vectors": 2, "interests": 6},
    ("encoder", "icl.capsule"): {"dim": 16, "vectors": 2},
    ("encoder", "lurm"): {"item_dim": 8, "interests": 6, "anchors": 2, "dim": 8},
    ("encoder", "lurm.boi"): {"item_dim": 8, "interests": 6},
    ("encoder", "lurm.items"): {"item_dim": 8},
    ("encoder", "userbert"): {"dim": 16, "heads": 2, "max_events": 24},
}


def parts(role: Role) -> list[str]:
    """Names of what the plugins offer that README.md lists; they must be installed."""
    listed = set(re.findall(r"\[`(\w+)`\]\(plugins/", (ROOT / "README.md").read_text("utf-8")))
    registry = load_plugins()
    assert listed <= {plugin.name for plugin in registry.plugins if plugin.state == "ready"}
    names = [name for kind, name in registry.parts if kind == role]
    return sorted(name for name in names if name.partition(".")[0] in listed)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(users=40, items=30, longest=20)


@pytest.fixture(scope="module")
def build(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Trio]:
    """Build a trio by the names of its parts, as the host does."""
    labels = tmp_path_factory.mktemp("labels") / "labels.parquet"
    label = (world.past.lengths > world.past.lengths.float().median()).tolist()
    pq.write_table(pa.table({"user_id": world.past.users, "label": label}), labels)
    shown = labels.with_name("impressions.parquet")
    end = pa.scalar(world.past.until - 1).cast(TIME_TYPE).as_py()
    users = range(len(label))
    pq.write_table(  # everybody was shown two items at one time, and clicked one of them
        pa.table(
            {
                "user_id": world.past.users.take(pa.array([one for one in users for _ in "ab"])),
                "item_id": world.past.items.item_ids.take(pa.array([0, 1] * len(label))),
                "event_timestamp": pa.array([end] * 2 * len(label), TIME_TYPE),
                "clicked": [clicked for one in label for clicked in (one, not one)],
            }
        ),
        shown,
    )
    own = {
        **SMALL,
        ("sampler", "clue.labels"): {"path": str(labels)},
        ("sampler", "userbert.ctr"): {"path": str(shown), "negatives": None},
        ("sampler", "userbert.news"): {"path": str(shown)},
    }

    def make(encoder: str, objective: str, sampler: str) -> Trio:
        names: dict[Role, str] = {
            "encoder": encoder,
            "objective": objective,
            "sampler": sampler,
        }
        settings = {role: own.get((role, name), {}) for role, name in names.items()}
        plugin = encoder.partition(".")[0]
        return registered(plugin, **names, settings=settings).build(world.past)

    return make


@pytest.fixture(scope="module")
def fits(build: Callable[[str, str, str], Trio]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each encoder lacks under each objective, and each sampler under each objective."""
    encoders, objectives, samplers = parts("encoder"), parts("objective"), parts("sampler")
    lacking: dict[str, Any] = {name: {} for name in encoders}
    unseen: dict[str, Any] = {name: {} for name in objectives}
    for objective in objectives:
        for encoder in encoders:
            trio = build(encoder, objective, samplers[0])
            assert trio.objective is not None
            lacking[encoder][objective] = trio.objective.requires - trio.encoder.provides
        for sampler in samplers:
            trio = build(encoders[0], objective, sampler)
            assert trio.objective is not None and trio.sampler is not None
            unseen[objective][sampler] = trio.objective.views - trio.sampler.views
    return lacking, unseen


def table(corner: str, rows: dict[str, dict[str, frozenset[str]]], needs: str) -> str:
    """A Markdown table of who goes with whom."""
    columns = list(next(iter(rows.values())))
    lines = [
        f"| {corner} | {' | '.join(f'`{name}`' for name in columns)} |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for name, row in rows.items():
        cells = [
            "yes" if not missing else f"no{needs}{', '.join(sorted(missing)) if needs else ''}"
            for missing in row.values()
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_tables_say_what_goes_together(
    fits: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    """Both tables of plugins/README.md are those of the installed plugins."""
    lacking, unseen = fits
    wanted = {
        "encoders and objectives": table("encoder \\ objective", lacking, ", lacks "),
        "objectives and samplers": table("objective \\ sampler", unseen, ""),
    }
    text = README.read_text(encoding="utf-8")
    for name, rendered in wanted.items():
        found = re.search(f"<!-- mixes: {name} -->\n(.*?)<!-- /mixes -->", text, re.DOTALL)
        assert found is not None, f"plugins/README.md has no block 'mixes: {name}'"
        assert found[1].strip() == rendered, f"plugins/README.md, {name}: wanted\n{rendered}"


def test_every_trio_runs_or_is_refused_in_one_line(
    build: Callable[[str, str, str], Trio],
    fits: tuple[dict[str, Any], dict[str, Any]],
    world: World,
) -> None:
    """Trained for two steps, with finite losses and vectors; or both misfits are named."""
    lacking, unseen = fits
    for encoder in parts("encoder"):
        for objective in parts("objective"):
            for sampler in parts("sampler"):
                names = f"{encoder}, {objective}, {sampler}"
                trio = build(encoder, objective, sampler)
                if lacking[encoder][objective] or unseen[objective][sampler]:
                    with pytest.raises(ContractError) as caught:
                        train(trio, world.past, steps=2)
                    message = str(caught.value)
                    misfit = encoder if lacking[encoder][objective] else sampler
                    assert repr(objective) in message and repr(misfit) in message, names
                    assert "\n" not in message and "choose" in message, names
                    continue
                losses = train(trio, world.past, steps=2)
                assert all(map(math.isfinite, losses)), f"{names}: losses {losses}"
                users = vectors(trio.encoder, _histories(trio, world))
                shape = (len(world.past), trio.encoder.num_vectors, trio.encoder.dim)
                assert users.shape == shape and bool(torch.isfinite(users).all()), names


def _histories(trio: Trio, world: World) -> SequenceBatch:
    past = world.past
    return past.limit(trio.encoder.window).histories(past.all_users())
