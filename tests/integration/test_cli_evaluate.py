"""`unirep evaluate`: train before cut-offs, encode as of them, fetch through Feast, probe, rank."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result

from unirep_feast.evaluation.results import read_csv
from unirep_feast.feature_store.entity_rows import read_entity_rows
from unirep_feast.feature_store.historical_reading import through_feast
from unirep_feast.feature_store.private_repo import PrivateRepo
from unirep_feast.instants import parse_instant
from unirep_feast.spec_file import load_spec
from unirep_feast.testing.world import make_world

pytest.importorskip("lightgbm")

Cli = Callable[..., Result]
Refusal = Callable[[Any], str]

T = "2020-03-01"

TASKS: dict[str, Any] = {
    "name": "shop",
    "events": {"path": "events.parquet", "columns": {"type": "event_type", "value": "value"}},
    "items": {"path": "items.parquet"},
    "cut_off": T,
    "seeds": 2,
    "splits": {"valid": 0.3, "test": 0.3},
    "mlp": {"epochs": 3},
    "boosting": {"rounds": 5},
    "tasks": [
        {"name": "churn", "kind": "churn", "settings": {"days": 20}},
        {"name": "spending", "kind": "value", "probes": ["logistic"], "settings": {"days": 20}},
        {
            "name": "cmp_s",
            "kind": "matching",
            "probes": ["direct", "neighbors", "index"],
            "settings": {"mode": "short", "days": 10, "starts": 2, "top": 5},
        },
    ],
}


@pytest.fixture
def market(shop: Any) -> Any:
    """The shop with a task file, a small world of 240 users and no time to train until."""
    world = make_world(users=240, items=30, seed=3)
    shop.log(world.events)
    pq.write_table(world.items, shop.folder / "items.parquet")
    shop.write(training__until=None)
    tasks(shop)
    return shop


def tasks(shop: Any, **changes: Any) -> Path:
    path: Path = shop.folder / "tasks.yaml"
    path.write_text(yaml.safe_dump({**TASKS, **changes}))
    return path


def evaluate(cli: Cli, shop: Any, *more: Any, spec: Path | None = None) -> dict[str, Any]:
    arguments = ["evaluate", shop.folder / "tasks.yaml", spec or shop.path, "--json", *more]
    result = cli(*arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def work(shop: Any) -> Path:
    return Path(shop.folder / "data/evaluation/shop")


def runs(shop: Any) -> list[Any]:
    from unirep_feast.catalog import Catalog

    url = f"sqlite:///{work(shop)}/unirep/catalog.db"
    return list(Catalog(url, create=False).list_runs())


def without_time(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found["rows"]]


def test_one_command_trains_encodes_probes_and_ranks(market: Any, cli: Cli) -> None:
    """All of it from a spec that was never trained; the serving catalog is left alone."""
    found = evaluate(cli, market, "--control")

    (run,) = runs(market)
    assert run.trained_until == parse_instant(T)
    assert not (market.folder / "data/unirep/catalog.db").exists()
    assert {entry["task"] for entry in found["leaderboard"]} == {"churn", "spending", "cmp_s"}
    assert {task["name"]: task["metric"] for task in found["tasks"]} == {
        "churn": "auc",
        "spending": "r2",
        "cmp_s": "recall@5",
    }
    assert found["tasks"][2]["as_of"] == ["2020-03-01T00:00:00Z", "2020-03-06T00:00:00Z"]
    rows = found["rows"]
    numbers = {"logistic", "mlp", "boosting"}
    assert {row["probe"] for row in rows if row["task"] == "churn"} == {
        *numbers,
        *(f"{probe}:published" for probe in numbers),
    }
    assert {row["probe"] for row in rows if row["task"] == "cmp_s"} == {
        "direct",
        "neighbors",
        "index",
    }
    assert {row["seed"] for row in rows if row["probe"] == "mlp"} == {0, 1}
    assert all(np.isfinite(row["value"]) for row in rows)
    assert not any(row["leakage_allowed"] for row in rows)
    assert any(row["control"] for row in rows)
    assert {row["split"] for row in rows} == {"valid", "test"}
    measures = {one["measure"]: one["value"] for one in found["intrinsic"]}
    assert {"uniformity", "alignment", "effective_rank", "dead_dimensions", "coverage"} <= {
        *measures
    }
    assert measures["coverage"] == 1
    assert {"neighbor_stability_snapshots", "drift_mean_shift", "drift_frechet"} <= {*measures}
    assert json.loads((work(market) / "leaderboard.json").read_text()) == found
    assert [row.value for row in read_csv((work(market) / "results.csv").read_text())] == [
        row["value"] for row in rows
    ]


def test_what_is_done_is_kept(market: Any, cli: Cli) -> None:
    """A second call computes nothing; another seed or task computes what is missing alone."""
    first = evaluate(cli, market)
    results = work(market) / "results/shop"
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}

    again = evaluate(cli, market)
    unchanged = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    more = evaluate(cli, market, "--set", "seeds=3", "--task", "churn")

    assert again["rows"] == first["rows"]
    assert unchanged == before
    assert len(runs(market)) == 1
    churn = [row for row in first["rows"] if row["task"] == "churn"]
    assert [row for row in more["rows"] if row["seed"] < 2] == churn
    assert {row["seed"] for row in more["rows"]} == {0, 1, 2}


def test_another_log_makes_results_anew(market: Any, cli: Cli) -> None:
    """Results hang on every event that tasks see: one more, and cells are computed again."""
    first = evaluate(cli, market, "--task", "churn")
    events = pq.read_table(market.folder / "events.parquet")
    late = events.slice(0, 60).set_column(
        events.column_names.index("event_timestamp"),
        "event_timestamp",
        pa.array([parse_instant("2020-03-15")] * 60).cast(pa.timestamp("us", tz="UTC")),
    )
    market.log(pa.concat_tables([events, late]))

    second = evaluate(cli, market, "--task", "churn")

    assert without_time(first) != without_time(second)


def test_features_are_what_get_historical_features_answers(market: Any, cli: Cli) -> None:
    """The fast path fetches bit for bit what Feast's own call fetches, missing users too."""
    evaluate(cli, market, "--task", "cmp_s")
    (run,) = runs(market)
    spec_path = work(market) / "feast" / run.representation / f"{run.representation}.yaml"
    repo = PrivateRepo(load_spec(spec_path), spec_path.parent)
    ids = pa.array([*range(240), 10_000])
    for when in (T, "2020-03-06", "2020-02-28"):
        times = np.full(len(ids), parse_instant(when))

        vectors, known = repo.fetch(ids, times)

        view = repo.store.get_feature_view(run.representation)
        asked = read_entity_rows(repo.entity_rows(ids, times), view)
        feast = through_feast(repo.store, view, asked)
        assert np.array_equal(known, feast.mask.numpy())
        assert np.array_equal(vectors[known], feast.vectors.numpy()[known])
        assert known.any() == (when != "2020-02-28")
        assert not known[-1]


def test_published_numbers_are_of_events_before_each_time(market: Any, cli: Cli) -> None:
    """How many events and how long ago, as a loop over the log counts them; zeros for strangers."""
    evaluate(cli, market, "--task", "cmp_s")
    (run,) = runs(market)
    spec_path = work(market) / "feast" / run.representation / f"{run.representation}.yaml"
    repo = PrivateRepo(load_spec(spec_path), spec_path.parent)
    log = pq.read_table(market.folder / "events.parquet").to_pydict()
    # Users repeat, stand in no order, and are asked about at two times; 10,000 is nobody.
    ids = [*range(239, -1, -3), *range(40), 10_000, 5, 5]
    times = [parse_instant(T if i % 2 else "2020-03-06") for i in range(len(ids))]

    found = repo.fetch_published(pa.array(ids), np.array(times))

    met: dict[int, list[int]] = {}
    columns = (log[name] for name in ("user_id", "event_timestamp", "item_id"))
    for user, when, *_ in set(zip(*columns, strict=True)):  # a line that stands twice is one event
        met.setdefault(user, []).append(int(when.timestamp() * 1e6))
    for user, when, numbers in zip(ids, times, found, strict=True):
        before = [time for time in met.get(user, []) if time < when]
        wanted = [0.0, 0.0]
        if before:
            wanted = [np.log1p(len(before)), np.log1p((when - max(before)) / 86_400e6)]
        np.testing.assert_allclose(numbers, wanted, rtol=1e-5)


def test_published_numbers_can_be_left_out(market: Any, cli: Cli) -> None:
    """Other figures, and no probe of them alone; of rankings nothing changes."""
    first = evaluate(cli, market, "--no-intrinsic")
    second = evaluate(cli, market, "--no-intrinsic", "--set", "published=false")

    def values(found: dict[str, Any], task: str) -> list[Any]:
        return [(r["probe"], r["value"]) for r in found["rows"] if r["task"] == task]

    assert not any("published" in row["probe"] for row in second["rows"])
    assert values(first, "cmp_s") == values(second, "cmp_s")
    without = [one for one in values(first, "churn") if "published" not in one[0]]
    assert without != values(second, "churn")


@pytest.mark.parametrize("how", ["changed", "added"])
def test_no_feature_sees_an_event_from_the_cut_off_on(market: Any, cli: Cli, how: Any) -> None:
    """Whatever happens at or after T, vectors as of T are the same to the bit; labels are not."""
    first = evaluate(cli, market, "--task", "churn", "--no-intrinsic")
    before = pq.read_table(first["representations"][0]["snapshot"])
    other = make_world(users=240, items=30, seed=3).with_other_future(how)
    assert other.until == parse_instant(T)
    market.log(other.events)

    second = evaluate(
        cli, market, "--task", "churn", "--no-intrinsic", "--work", market.folder / "w"
    )

    after = pq.read_table(second["representations"][0]["snapshot"])
    assert after["vector"].equals(before["vector"])
    assert after["user_id"].equals(before["user_id"])


# -- leakage ---------------------------------------------------------------------------------------


def test_a_planted_leak_is_refused(market: Any, cli: Cli, refusal: Refusal) -> None:
    """A spec that trains past the cut-off is refused before anything is trained, in one line."""
    market.write(training__until="2020-03-10")

    line = refusal(cli("evaluate", market.folder / "tasks.yaml", market.path))

    assert "task 'churn' asks as of 2020-03-01T00:00:00Z, but training.until of 'shop' is" in line
    assert (
        "2020-03-10T00:00:00Z: the model would have seen the labels; set it to 2020-03-01" in line
    )
    assert "--allow-model-leakage" in line
    assert not (market.folder / "data").exists()


def test_a_leak_that_is_allowed_is_recorded(market: Any, cli: Cli) -> None:
    """Every row says so, and so does the catalog's snapshot."""
    market.write(training__until="2020-03-10")

    found = evaluate(cli, market, "--allow-model-leakage", "--task", "churn", "--no-intrinsic")

    assert all(row["leakage_allowed"] for row in found["rows"])
    assert found["representations"][0]["leakage_allowed"]


def test_an_earlier_training_answers_a_later_cut_off(market: Any, cli: Cli) -> None:
    """training.until before all cut-offs is kept, one run serves them all."""
    market.write(training__until="2020-02-15")
    second = {**TASKS["tasks"][0], "name": "later", "cut_off": "2020-03-05"}
    tasks(market, tasks=[TASKS["tasks"][0], second])

    evaluate(cli, market, "--no-intrinsic")

    (run,) = runs(market)
    assert run.trained_until == parse_instant("2020-02-15")


def test_every_cut_off_gets_a_run_of_its_own(market: Any, cli: Cli) -> None:
    """Without training.until the model sees all before each cut-off, and no more."""
    second = {**TASKS["tasks"][0], "name": "later", "cut_off": "2020-03-05"}
    tasks(market, tasks=[TASKS["tasks"][0], second])

    document = evaluate(
        cli, market, "--set", "training_seeds=2", "--task", "churn", "--task", "later"
    )

    stable = [e for e in document["intrinsic"] if e["measure"] == "neighbor_stability_runs"]
    assert [one["as_of"] for one in stable] == ["2020-03-01T00:00:00Z", "2020-03-05T00:00:00Z"]
    assert all(0 <= one["value"] <= 1 for one in stable)
    entries = document["leaderboard"]
    assert {entry["n"] for entry in entries if entry["probe"] == "logistic"} <= {2}
    wanted = {(parse_instant(when), seed) for when in (T, "2020-03-05") for seed in (0, 1)}
    found = {(r.trained_until, json.loads(r.spec)["training"]["seed"]) for r in runs(market)}
    assert found == wanted


def test_the_serving_run_is_evaluated_as_it_is(market: Any, cli: Cli, refusal: Refusal) -> None:
    """`--serving` trains nothing; a serving run that saw the labels is a leak."""
    market.write(training__until=T)
    trained = json.loads(cli("train", market.path, "--json").stdout)["run"]

    found = evaluate(cli, market, "--serving", "--task", "churn", "--no-intrinsic")

    assert {row["run"] for row in found["rows"]} == {trained}
    assert not (work(market) / "unirep").exists()
    tasks(market, tasks=[{**TASKS["tasks"][0], "cut_off": "2020-02-20"}])
    line = refusal(cli("evaluate", market.folder / "tasks.yaml", market.path, "--serving"))
    assert "but the serving run of 'shop' is 2020-03-01T00:00:00Z: the model would have" in line


# -- several, and trouble --------------------------------------------------------------------------


def test_one_that_fails_does_not_stop_the_others(market: Any, cli: Cli) -> None:
    """The others are ranked; the exit code and the last line tell of the one that failed."""
    spec = yaml.safe_load(market.path.read_text())
    spec |= {"name": "broken", "encoder": {"settings": {"fails": "nan"}}}
    broken = market.folder / "broken.yaml"
    broken.write_text(yaml.safe_dump(spec))

    result = cli("evaluate", market.folder / "tasks.yaml", broken, market.path, "--task", "churn")

    assert result.exit_code == 1
    assert "1 of 2 failed: broken: " in result.stderr.strip().splitlines()[-1]
    assert "shop" in result.stdout
    assert {row.representation for row in read_csv((work(market) / "results.csv").read_text())} == {
        "shop"
    }


def test_the_table_is_for_people(market: Any, cli: Cli, tmp_path: Path) -> None:
    """A line per representation, a column per task, chance below, controls and files after it."""
    out = tmp_path / "rows.csv"

    result = cli("evaluate", market.folder / "tasks.yaml", market.path, "--control", "--csv", out)

    lines = result.stdout.splitlines()
    assert any(line.startswith("representation") and "churn" not in line for line in lines)
    assert any("churn" in line and "spending" in line for line in lines)
    assert any(line.startswith("shop") for line in lines)
    assert any(line.startswith("chance") and "0.500" in line for line in lines)
    assert any(line.startswith("control: shop, churn, auc on shuffled labels") for line in lines)
    assert out.read_text() == (work(market) / "results.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tasks}"], "no SPEC is given; name the representations"),
        (["{folder}/none.yaml", "{spec}"], "none.yaml: No such file or directory"),
        (["{tasks}", "{spec}", "--task", "chrun"], "no task chrun in shop; found churn, spending"),
        (["{tasks}", "{spec}", "{spec}"], "several specs are called shop"),
        (["{tasks}", "{spec}", "--set", "nonsense=1"], "unknown key `nonsense`"),
        (["{tasks}", "{spec}", "--set", "cut_off=2020-03-25"], "but the log ends at 2020-03-30"),
        (["{tasks}", "{spec}", "--set", "events.path=x.parquet"], "no such file or folder"),
        (["{tasks}", "{spec}", "--set", "probes=[lgbm]"], "probes.0: Input should be 'logistic'"),
        (["{tasks}", "{spec}", "--work", "{spec}"], "is a file"),
        (["{tasks}", "{folder}/none.yaml"], "none.yaml: No such file or directory"),
    ],
)
def test_bad_input_is_one_line(market: Any, cli: Cli, arguments: list[str], message: str) -> None:
    """Exit code 1 or 2, one line of error, nothing trained."""
    places = {"tasks": market.folder / "tasks.yaml", "spec": market.path, "folder": market.folder}

    result = cli("evaluate", *(argument.format(**places) for argument in arguments))

    assert result.exit_code in (1, 2)
    assert message in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert list(market.folder.rglob("runs")) == []


def test_a_killed_evaluation_goes_on_where_it_stopped(market: Any, cli: Cli) -> None:
    """Killed between two tasks, it trains nothing again and ends with the same figures."""

    command = [
        Path(sys.executable).parent / "unirep",
        "evaluate",
        market.folder / "tasks.yaml",
        market.path,
        "--json",
    ]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    market.wait_for(lambda: any(work(market).rglob("results/*/*/churn.json")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (cut,) = work(market).rglob("churn.json")
    kept = json.loads(cut.read_text())["cells"]

    found = evaluate(cli, market)
    fresh = evaluate(cli, market, "--work", market.folder / "fresh")

    assert len(runs(market)) == 1
    cells = json.loads(cut.read_text())["cells"]
    assert {name: cells[name] for name in kept} == kept
    values = [
        [
            (r["task"], r["probe"], r["seed"], r["split"], r["metric"], r["value"])
            for r in one["rows"]
        ]
        for one in (found, fresh)
    ]
    assert values[0] == values[1]
    assert list(work(market).rglob("*.tmp")) == []


def test_an_encoder_is_fine_tuned_where_it_can_be(market: Any, cli: Cli) -> None:
    """`fine_tune` goes on training a copy of the encoder; the run itself keeps its weights."""
    one = {**TASKS["tasks"][0], "probes": ["fine_tune", "logistic"]}
    tasks(market, tasks=[one], fine_tune={"max_steps": 4, "validate_every": 2})

    found = evaluate(cli, market, "--no-intrinsic")

    (run,) = runs(market)
    home = work(market) / "unirep" / run.representation / "runs" / run.id
    probes = {row["probe"] for row in found["rows"]}
    assert probes == {"fine_tune", "logistic", "logistic:published"}
    assert len(list(home.glob("checkpoints/*"))) >= 1
    again = evaluate(cli, market, "--no-intrinsic", "--work", market.folder / "fresh")
    assert [r["value"] for r in found["rows"]] == [r["value"] for r in again["rows"]]


def test_a_task_can_come_from_a_plugin(
    market: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    """A kind that a distribution registers is evaluated like ours, its version in the key."""
    site = market.folder / "site"
    info = site / "unirep_feast_acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unirep-feast-acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unirep_feast]\nacme = acme_hooks\n")
    (site / "acme_hooks.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    from unirep_feast.plugins import load_plugins

    load_plugins.cache_clear()
    one = {"name": "odd", "kind": "acme.odd", "probes": ["logistic"]}
    tasks(market, tasks=[one])

    found = evaluate(cli, market, "--no-intrinsic")

    assert {row["kind"] for row in found["rows"]} == {"acme.odd"}
    assert "    task acme.odd" in cli("plugins", "list").stdout.splitlines()
    tasks(market, tasks=[{**one, "settings": {"odds": 1}}])
    line = refusal(cli("evaluate", market.folder / "tasks.yaml", market.path))
    assert "unknown key `odds` (the settings of 'acme.odd' are every)" in line


PLUGIN = """
import numpy as np
from pydantic import BaseModel
from unirep_feast import hookimpl
from unirep_feast.task import Examples

class Settings(BaseModel, extra="forbid"):
    every: int = 2

class Odd:
    problem = "binary"
    metrics = ("auc",)

    def __init__(self, settings):
        self.settings = settings

    def times(self, cut_off):
        return (cut_off,)

    def horizon(self, cut_off):
        return cut_off

    def examples(self, log, cut_off):
        users = np.unique(log.before(cut_off).users)
        targets = (users % self.settings.every == 0).astype(np.float32)
        return Examples(users, np.full(len(users), cut_off), targets)

@hookimpl
def unirep_register_tasks(register):
    register("acme.odd", Odd, Settings)
"""
