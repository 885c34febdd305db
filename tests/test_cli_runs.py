"""`unirep runs` and `unirep db`: what people and scripts read."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from unirep_feast.catalog import Catalog, connect, schema
from unirep_feast.cli import db, main, runs
from unirep_feast.errors import CatalogError

LAST_YEAR = 1_577_836_800_000_000  # 2020-01-01T00:00:00Z in microseconds


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture
def catalog(url: str) -> Catalog:
    return Catalog(url)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "data" / "shoppers"


def add_run(catalog: Catalog, home: Path, run_id: str, status: str = "finished") -> None:
    folder = home / "runs" / run_id
    folder.mkdir(parents=True)
    catalog.start_run(
        run_id,
        representation=home.name,
        spec='{"name": "shoppers", "plugin": "toy"}',
        spec_hash="5eed",
        plugins={"encoder": {"name": "toy", "distribution": "unirep-toy", "version": "1.2"}},
        folder=str(folder),
        trained_until=LAST_YEAR,
        events=1200,
        users=34,
    )
    if status == "finished":
        catalog.finish_run(run_id, steps=56, metrics={"validation_loss": -0.875, "std": None})
    elif status != "running":
        catalog.fail_run(run_id, "loss is [nan] :bomb:", steps=7)


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(runs.command, list(arguments), prog_name="unirep runs")


def lines(result: Result) -> list[list[str]]:
    assert result.exception is None, result.exception
    return [line.split() for line in result.stdout.splitlines()]


def test_list_shows_every_run_and_the_one_that_serves(
    catalog: Catalog, home: Path, url: str
) -> None:
    """The table has a line per run, latest first, whole ids, and marks the promoted one."""
    add_run(catalog, home, "20261121-031500-ab12cd")
    add_run(catalog, home, "20261121-041500-ef34ab", "failed")
    catalog.promote("20261121-031500-ab12cd")
    table = lines(invoke("list", "--catalog", url))

    assert table[0][:4] == ["run", "representation", "status", "serves"]
    assert table[1][:4] == [
        "20261121-041500-ef34ab",
        "shoppers",
        "failed",
        "2020-01-01T00:00:00Z",
    ]
    assert table[2][:8] == [
        *("20261121-031500-ab12cd", "shoppers", "finished", "yes"),
        *("2020-01-01T00:00:00Z", "56", "34", "1200"),
    ]
    assert len(table) == 3


def test_list_can_be_read_by_a_script(catalog: Catalog, home: Path, url: str) -> None:
    """`--json` prints a list of runs with ISO times, and `--representation` narrows it."""
    add_run(catalog, home, "a")
    add_run(catalog, home.with_name("readers"), "b", "running")
    everything = json.loads(invoke("list", "--json", "--catalog", url).stdout)
    (found,) = json.loads(
        invoke("list", "--json", "--representation", "shoppers", "--catalog", url).stdout
    )

    assert [run["id"] for run in everything] == ["b", "a"]
    assert found["trained_until"] == "2020-01-01T00:00:00Z"
    assert found["metrics"] == {"validation_loss": -0.875, "std": None}
    assert datetime.fromisoformat(found["created_at"]).tzinfo is not None
    assert (found["promoted"], found["promoted_at"], found["users"]) == (False, None, 34)
    assert "spec" not in found


def test_list_of_nothing_says_so(catalog: Catalog, url: str) -> None:
    """A catalog without runs is no error."""
    assert invoke("list", "--catalog", url).stdout == "no runs yet\n"
    assert json.loads(invoke("list", "--json", "--catalog", url).stdout) == []


@pytest.mark.parametrize("arguments", [["list"], ["show", "a"], ["promote", "a"]])
def test_without_a_catalog_nothing_is_created(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the default place and the command that makes a catalog; no file appears."""
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)

    assert result.exit_code == 1
    assert isinstance(result.exception, CatalogError)
    assert str(result.exception) == (
        "there is no catalog at sqlite:///data/unirep/catalog.db; `unirep train SPEC` makes one, "
        "or give another with --catalog or UNIREP_CATALOG"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_expected_failure_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    """Through the whole command line there is a line on stderr, nothing on stdout."""
    url = f"sqlite:///{tmp_path}/none.db"
    result = CliRunner().invoke(main, ["runs", "list", "--catalog", url])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert f"there is no catalog at {url}" in result.stderr


def test_the_environment_names_the_catalog(catalog: Catalog, home: Path, url: str) -> None:
    """UNIREP_CATALOG is where the commands look, unless --catalog is given."""
    add_run(catalog, home, "a")

    assert lines(invoke("list", UNIREP_CATALOG=url))[1][0] == "a"
    assert isinstance(
        invoke("list", "--catalog", url + "x", UNIREP_CATALOG=url).exception, CatalogError
    )


def full_run(catalog: Catalog, home: Path) -> None:
    add_run(catalog, home, "20261121-ab")
    add_run(catalog, home, "20261122-cd")
    catalog.add_checkpoint(
        "20261121-ab", step=50, path="ckpt/50", checksum="c0ffee", validation_loss=-0.875, best=True
    )
    snapshot = catalog.add_snapshot(
        "20261121-ab",
        as_of=LAST_YEAR - 1,
        path="snapshots/2019.parquet",
        checksum="beef",
        rows=34,
        num_vectors=2,
        dim=64,
        allow_model_leakage=True,
    )
    catalog.record_materialization(
        snapshot.id,
        store="redis",
        feature_view="shoppers",
        rows=34,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        finished_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    catalog.add_index(
        snapshot.id,
        metric="cosine",
        path="indexes/2019.ann",
        checksum="1dea",
        size=4096,
        n_trees=16,
        search_k=800,
        recall=0.96875,
        recall_wanted=0.95,
        recall_at=100,
    )
    for run_id in ("20261121-ab", "20261122-cd"):
        catalog.promote(run_id)


def test_show_tells_the_whole_story_of_a_run(catalog: Catalog, home: Path, url: str) -> None:
    """A unique prefix is enough; spec, plugins, metrics, files and promotions are all there."""
    full_run(catalog, home)
    told = lines(invoke("show", "20261121", "--catalog", url))

    for line in (
        ["run", "20261121-ab"],
        ["spec", "hash", "5eed"],
        ["trained", "until", "2020-01-01T00:00:00Z"],
        ["encoder", "toy", "(unirep-toy", "1.2)"],
        ["metric", "validation_loss", "-0.875"],
        ["folder", str(home / "runs" / "20261121-ab")],
    ):
        assert line in told
    starts = [line[:5] for line in told]
    assert ["50", "-0.875", "yes", "ckpt/50", "c0ffee"] in starts
    assert ["2019-12-31T23:59:59.999999Z", "user", "34", "2", "x"] in starts
    assert any("redis/shoppers" in line and "snapshots/2019.parquet" in line for line in told)
    assert any("0.969" in line and "indexes/2019.ann" in line for line in told)
    assert any(line[-2:] == ["(model", "leakage)"] for line in told)
    assert any(line[1:] == ["20261121-ab", "-"] for line in told)
    assert any(line[1:] == ["20261122-cd", "20261121-ab"] for line in told)


def test_show_prints_an_error_as_it_is(catalog: Catalog, home: Path, url: str) -> None:
    """Brackets and colons of a message are not taken for markup."""
    add_run(catalog, home, "a", "failed")

    assert ["error", "loss", "is", "[nan]", ":bomb:"] in lines(
        invoke("show", "a", "--catalog", url)
    )


def test_show_can_be_read_by_a_script(catalog: Catalog, home: Path, url: str) -> None:
    """`--json` prints one object with the spec and everything that came of the run."""
    full_run(catalog, home)
    told: dict[str, Any] = json.loads(invoke("show", "20261121", "--json", "--catalog", url).stdout)

    assert told["spec"] == {"name": "shoppers", "plugin": "toy"}
    assert told["plugins"]["encoder"]["version"] == "1.2"
    assert [one["step"] for one in told["checkpoints"]] == [50]
    assert told["snapshots"][0]["as_of"] == "2019-12-31T23:59:59.999999Z"
    assert told["indexes"][0]["recall"] == 0.96875
    assert told["materializations"][0]["store"] == "redis"
    assert [one["run_id"] for one in told["promotions"]] == ["20261121-ab", "20261122-cd"]


def test_an_ambiguous_run_lists_candidates(catalog: Catalog, home: Path, url: str) -> None:
    """A prefix of several runs is refused, naming them."""
    add_run(catalog, home, "2026-a")
    add_run(catalog, home, "2026-b")
    result = invoke("show", "2026", "--catalog", url)

    assert isinstance(result.exception, CatalogError)
    assert "2026-a, 2026-b" in str(result.exception)


def test_promote_says_what_served_before_and_how_to_go_back(
    catalog: Catalog, home: Path, url: str
) -> None:
    """The folder that feature views read follows each promotion, and the way back is printed."""
    add_run(catalog, home, "run-a")
    add_run(catalog, home, "run-b")
    link = home / "snapshots" / "promoted"
    first = invoke("promote", "run-a", "--catalog", url)
    assert first.stdout == "shoppers is served by run run-a now\nno run served it before\n"
    assert link.resolve() == (home / "snapshots" / "run-a").resolve()

    second = invoke("promote", "run-b", "--catalog", url)

    assert second.stdout == (
        "shoppers is served by run run-b now\n"
        f"before it was run-a; to go back: unirep runs promote run-a --catalog {url}\n"
    )
    assert link.resolve() == (home / "snapshots" / "run-b").resolve()
    back = second.stdout.split("unirep runs ")[1].split()
    assert "before it was run-b" in invoke(*back).stdout
    assert link.resolve() == (home / "snapshots" / "run-a").resolve()


def test_the_way_back_needs_no_flag_where_the_environment_names_the_catalog(
    catalog: Catalog, home: Path, url: str
) -> None:
    """--catalog is repeated only where it was given by hand."""
    for run_id in ("run-a", "run-b"):
        add_run(catalog, home, run_id)
        result = invoke("promote", run_id, UNIREP_CATALOG=url)

    assert result.stdout.endswith("unirep runs promote run-a\n")


def test_a_run_that_is_not_on_this_machine_is_not_promoted(
    catalog: Catalog, home: Path, url: str
) -> None:
    """Without the run's folder nothing could be served: the catalog stays as it is."""
    add_run(catalog, home, "run-a")
    (home / "runs" / "run-a").rmdir()
    result = invoke("promote", "run-a", "--catalog", url)

    assert isinstance(result.exception, CatalogError)
    assert f"run run-a lies in {home}/runs/run-a, which is not here" in str(result.exception)
    assert catalog.promoted("shoppers") is None


def test_an_unfinished_run_leaves_the_folder_alone(catalog: Catalog, home: Path, url: str) -> None:
    """A run that failed is refused before anything is repointed."""
    add_run(catalog, home, "run-a", "failed")
    result = invoke("promote", "run-a", "--catalog", url)

    assert isinstance(result.exception, CatalogError)
    assert not (home / "snapshots").exists()


def test_db_upgrades_and_says_where_it_is(url: str, tmp_path: Path) -> None:
    """`db current` looks without creating; `db upgrade` sets up, and again changes nothing."""

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(db.command, [*arguments, "--catalog", url])
        assert result.exception is None
        return result.stdout

    assert call("current") == f"catalog {url}: empty, found none, wanted {schema.HEAD}\n"
    assert list(tmp_path.iterdir()) == []
    assert call("upgrade") == f"catalog {url} is at revision {schema.HEAD} now; it was empty\n"
    assert call("upgrade") == f"catalog {url} was at revision {schema.HEAD} already\n"
    assert json.loads(call("current", "--json")) == {
        "catalog": url,
        "state": "current",
        "found": schema.HEAD,
        "wanted": schema.HEAD,
    }


def test_db_current_tells_of_a_newer_database(url: str, catalog: Catalog) -> None:
    """Looking succeeds where using would be refused; upgrading is refused too."""
    engine = connect.open_engine(connect.read_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    seen = CliRunner().invoke(db.command, ["current", "--catalog", url])
    assert seen.stdout == f"catalog {url}: newer, found 9999, wanted {schema.HEAD}\n"
    refused = CliRunner().invoke(db.command, ["upgrade", "--catalog", url])
    assert isinstance(refused.exception, CatalogError)


def test_help_is_light() -> None:
    """Asking for help loads neither SQLAlchemy nor rich, let alone torch or feast."""
    code = (
        "import json, sys; from unirep_feast.cli import db, runs\n"
        "for group in (db.command, runs.command):\n"
        "    for name in ['', *group.commands]:\n"
        "        group.main([*([name] if name else []), '--help'], standalone_mode=False)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))

    assert not {"sqlalchemy", "alembic", "rich", "torch", "feast"} & loaded
