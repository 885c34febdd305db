"""The catalog's schema: how it gets to the latest revision, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from unirep_feast.catalog import Catalog, connect, schema
from unirep_feast.catalog.models import Base
from unirep_feast.errors import CatalogError

HEAD = schema.HEAD
NEXT = f"{int(HEAD) + 1:04d}"

LATER = f"""
import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{HEAD}"


def upgrade():
    with op.batch_alter_table("runs") as batch:
        batch.add_column(sa.Column("note", sa.Text(), nullable=False, server_default="none"))
        batch.alter_column("steps", type_=sa.Integer())


def downgrade():
    with op.batch_alter_table("runs") as batch:
        batch.drop_column("note")
"""


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = connect.open_engine(connect.read_url(url), enforce_foreign_keys=False)
    yield engine
    engine.dispose()


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Call it a later version of the package, with one more revision that rebuilds a table."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.migrations_folder(), folder)
    (folder / "versions" / f"{NEXT}_later.py").write_text(LATER)
    monkeypatch.setattr(schema, "migrations_folder", lambda: folder)
    monkeypatch.setattr(schema, "HEAD", NEXT)


def run_alembic(engine: Engine, name: str, *arguments: str) -> None:
    config = schema.alembic_config()
    with connect.for_writing(engine).begin() as connection:
        config.attributes["connection"] = connection
        getattr(command, name)(config, *arguments)


def execute(engine: Engine, statement: str) -> None:
    with connect.for_writing(engine).begin() as connection:
        connection.execute(text(statement))


def tables(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(inspect(connection).get_table_names())


def add_run(catalog: Catalog, run_id: str = "a") -> None:
    catalog.start_run(
        run_id,
        representation="shoppers",
        spec="{}",
        spec_hash="0",
        plugins={},
        folder=f"runs/{run_id}",
    )


def test_there_is_one_head_and_the_code_knows_it() -> None:
    """The migrations end in one revision, the one the code takes for the latest."""
    scripts = ScriptDirectory.from_config(schema.alembic_config())

    assert scripts.get_heads() == [schema.HEAD]


def test_each_revision_goes_up_down_and_up_again(engine: Engine) -> None:
    """Every revision can be undone and redone, leaving no table behind."""
    scripts = ScriptDirectory.from_config(schema.alembic_config())

    for script in reversed(list(scripts.walk_revisions())):
        run_alembic(engine, "upgrade", script.revision)
        above = tables(engine)
        run_alembic(engine, "downgrade", "-1")
        run_alembic(engine, "upgrade", script.revision)
        assert tables(engine) == above
    run_alembic(engine, "downgrade", "base")

    assert tables(engine) == {"alembic_version"}


def test_models_and_migrations_agree(url: str, engine: Engine) -> None:
    """A migrated database has what the models declare: `alembic check` finds nothing to add."""
    Catalog(url)

    run_alembic(engine, "check")


@pytest.mark.parametrize(
    "change", ["ALTER TABLE runs DROP COLUMN error", "DROP INDEX uq_runs_promoted"]
)
def test_the_check_of_models_would_notice(url: str, engine: Engine, change: str) -> None:
    """`alembic check` fails on a missing column and on a missing index, so its silence counts."""
    Catalog(url)
    execute(engine, change)

    with pytest.raises(Exception, match="New upgrade operations detected"):
        run_alembic(engine, "check")


def test_every_constraint_is_named(url: str, engine: Engine) -> None:
    """The database's constraints bear the names the models give them, so they can be dropped."""
    Catalog(url)
    found = set()
    with engine.connect() as connection:
        inspector = inspect(connection)
        for table in Base.metadata.tables:
            found.add(inspector.get_pk_constraint(table)["name"])
            found |= {one["name"] for one in inspector.get_foreign_keys(table)}
            found |= {one["name"] for one in inspector.get_unique_constraints(table)}
            found |= {one["name"] for one in inspector.get_check_constraints(table)}

    declared = {
        constraint.name
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
    }
    assert found == declared


def test_a_new_database_is_set_up_in_silence(
    url: str, engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    """An empty database reaches the latest revision by itself, and nothing is printed."""
    assert schema.current(url).kind == "empty"

    Catalog(url)

    assert schema.current(url) == schema.SchemaState("current", schema.HEAD)
    assert tables(engine) == {*Base.metadata.tables, "alembic_version"}
    assert capfd.readouterr() == ("", "")


def test_a_database_taken_down_to_nothing_counts_as_empty(url: str, engine: Engine) -> None:
    """After a downgrade to the base the catalog can be set up again."""
    Catalog(url)
    run_alembic(engine, "downgrade", "base")

    Catalog(url)

    assert schema.current(url).kind == "current"


@pytest.mark.usefixtures("next_version")
def test_a_stale_database_is_refused_with_the_command(url: str, engine: Engine) -> None:
    """An older revision is refused in one line: what was found, what is wanted, what to run."""
    run_alembic(engine, "upgrade", HEAD)

    with pytest.raises(CatalogError) as caught:
        Catalog(url)

    assert str(caught.value) == (
        f"catalog {url} is at revision {HEAD}, wanted {NEXT}; run `unirep db upgrade --catalog "
        f"{url}`"
    )
    assert schema.current(url) == schema.SchemaState("stale", HEAD)


def test_upgrading_keeps_every_row(
    url: str, engine: Engine, request: pytest.FixtureRequest
) -> None:
    """Rows, and what points at them, survive a revision that rebuilds the table, up and down."""
    catalog = Catalog(url)
    add_run(catalog)
    catalog.add_checkpoint("a", step=7, path="p", checksum="c", best=True)
    request.getfixturevalue("next_version")

    assert schema.upgrade(url) == schema.SchemaState("stale", HEAD)
    assert schema.upgrade(url) == schema.SchemaState("current", NEXT)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id, note FROM runs")).all() == [("a", "none")]
        assert "uq_runs_promoted" in {
            one["name"] for one in inspect(connection).get_indexes("runs")
        }
    run_alembic(engine, "downgrade", HEAD)
    run_alembic(engine, "upgrade", NEXT)

    assert [one.step for one in Catalog(url).checkpoints("a")] == [7]


@pytest.mark.usefixtures("next_version")
def test_a_failing_upgrade_changes_nothing(url: str, engine: Engine, tmp_path: Path) -> None:
    """A revision that fails half-way leaves the database as it was."""
    run_alembic(engine, "upgrade", HEAD)
    before = tables(engine)
    broken = LATER.replace("def downgrade", '    op.execute("SELECT nonsense")\n\n\ndef downgrade')
    (tmp_path / "migrations" / "versions" / f"{NEXT}_later.py").write_text(broken)

    with pytest.raises(CatalogError, match="nonsense"):
        schema.upgrade(url)

    assert tables(engine) == before
    assert schema.current(url) == schema.SchemaState("stale", HEAD)
    with engine.connect() as connection:
        assert "note" not in {one["name"] for one in inspect(connection).get_columns("runs")}


@pytest.mark.parametrize("open_it", [Catalog, schema.upgrade])
def test_a_newer_database_is_refused(url: str, engine: Engine, open_it: type[Catalog]) -> None:
    """A revision we do not know was made by a newer version: the line says to upgrade us."""
    Catalog(url)
    execute(engine, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(CatalogError, match=r"9999.*newer version.*upgrade unirep-feast") as caught:
        open_it(url)

    assert "\n" not in str(caught.value)
    assert schema.current(url).kind == "newer"


@pytest.mark.parametrize("revision", [None, "abc123", HEAD])
@pytest.mark.parametrize("open_it", [Catalog, schema.upgrade])
def test_a_foreign_database_is_refused_and_left_alone(
    url: str, engine: Engine, tmp_path: Path, open_it: type[Catalog], revision: str | None
) -> None:
    """Tables of another program, whether it uses Alembic or not, are not touched."""
    execute(engine, "CREATE TABLE invoices (id INTEGER)")
    if revision is not None:
        execute(engine, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        execute(engine, f"INSERT INTO alembic_version VALUES ('{revision}')")
    before = tables(engine), [file.read_bytes() for file in tmp_path.iterdir()]

    with pytest.raises(CatalogError, match="not a catalog's; give an empty database"):
        open_it(url)

    assert (tables(engine), [file.read_bytes() for file in tmp_path.iterdir()]) == before


def test_looking_creates_nothing(url: str, tmp_path: Path, engine: Engine) -> None:
    """Without leave to create, a missing catalog is an error that names what makes one."""
    with pytest.raises(
        CatalogError, match=r"there is no catalog at .*`unirep train SPEC` makes one"
    ):
        Catalog(url, create=False)

    assert list(tmp_path.iterdir()) == []
    assert tables(engine) == set()


def test_an_empty_file_is_an_empty_catalog(tmp_path: Path) -> None:
    """A file of no bytes is taken for a new database."""
    (tmp_path / "catalog.db").touch()

    Catalog(f"sqlite:///{tmp_path}/catalog.db")

    assert schema.current(f"sqlite:///{tmp_path}/catalog.db").kind == "current"


def test_processes_may_set_up_one_database_at_once(url: str) -> None:
    """Of processes that find the same empty database, all succeed and one sets it up."""
    code = (
        "import sys, alembic.command; from unirep_feast.catalog import Catalog\n"
        "print('ready', flush=True); sys.stdin.read(1)\n"
        "Catalog(sys.argv[1]).start_run(sys.argv[2], representation='r', spec='{}', spec_hash='',"
        " plugins={}, folder='f')"
    )
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, f"run-{number}"],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for number in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    failures = [worker.communicate()[1] for worker in _started(workers)]

    assert failures == [""] * 4
    assert len(Catalog(url).list_runs("r")) == 4


def _started(workers: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("x")
        worker.stdin.flush()
    return workers


def test_a_sqlite_catalog_is_written_to_while_somebody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is in write-ahead mode: a reader that takes its time holds up no training."""
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.1)
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    add_run(catalog, "a")
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT id FROM runs").fetchall() == [("a",)]
        add_run(catalog, "b")

        assert reader.execute("SELECT id FROM runs").fetchall() == [("a",)]


def test_a_good_catalog_opens_without_alembic(tmp_path: Path) -> None:
    """Only a database that needs work, or a refusal, loads Alembic."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    Catalog(url)
    code = (
        "import json, sys; from unirep_feast.catalog import Catalog;"
        "Catalog(sys.argv[1]).list_runs();"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, check=True, text=True
    )

    assert not {"alembic", "torch", "feast"} & set(json.loads(loaded.stdout))


def test_alembic_itself_works_on_the_catalog_of_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A developer's `alembic upgrade head` and `check` need only UNIREP_CATALOG."""
    monkeypatch.setenv("UNIREP_CATALOG", url)

    with redirect_stdout(io.StringIO()):
        command.upgrade(schema.alembic_config(), "head")
        command.check(schema.alembic_config())

    assert schema.current(url).kind == "current"


def test_migrations_travel_in_the_wheel() -> None:
    """The build puts the migrations where an installed package looks for them."""
    import tomllib

    root = Path(__file__).parents[2]
    build = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = build["targets"]["wheel"]["force-include"]

    assert included["migrations"] == "unirep_feast/_migrations"


def test_migrations_are_found_inside_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the package they win over a folder that happens to lie beside it; none is an error."""
    import unirep_feast

    package = tmp_path / "site-packages" / "unirep_feast"
    package.mkdir(parents=True)
    folder = schema.migrations_folder()
    monkeypatch.setattr(unirep_feast, "__file__", str(package / "__init__.py"))
    with pytest.raises(CatalogError, match=r"no migrations.*reinstall unirep-feast"):
        schema.migrations_folder()
    shutil.copytree(folder, package / "_migrations")
    (package.parent / "migrations").mkdir()

    assert schema.migrations_folder() == package / "_migrations"
    Catalog(f"sqlite:///{tmp_path}/catalog.db")
    assert (tmp_path / "catalog.db").exists()
