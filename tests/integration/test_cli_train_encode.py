"""`unirep train` and `unirep encode` end to end: the installed executable on a small shop."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from unirep_feast.catalog import Catalog
from unirep_feast.checkpoint import open_checkpoint
from unirep_feast.events import TIME_TYPE
from unirep_feast.instants import parse_instant
from unirep_feast.snapshot import AS_OF, LEAKAGE, RUN, read_vectors

Unirep = Callable[..., subprocess.CompletedProcess[str]]
Cli = Callable[..., Result]
Refusal = Callable[[Any], str]

T = "2020-03-10"


# -- the flow --------------------------------------------------------------------------------------


def test_the_whole_flow(shop: Any, unirep: Unirep) -> None:
    """Train, look, encode a snapshot and a plain file, encode again: files, rows, link agree."""
    trained = unirep("train", "shop.yaml", "--json", cwd=shop.folder)

    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)
    run = result["run"]
    assert result["steps"] == 6 and result["promoted"]
    assert result["trained_until"] == "2020-03-01T00:00:00Z"
    assert set(result["metrics"]) == {"best_step", "steps", "best_loss"}
    assert "34 training units of 55 users (28 train, 6 validation, 0 test)" in trained.stderr
    assert "events of" in trained.stderr.splitlines()[0]
    folder = shop.home / "runs" / run
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["final"]
    kinds = [json.loads(line)["kind"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("step") == 6
    checkpoint = open_checkpoint(folder / "checkpoints" / "final")
    assert checkpoint.manifest.trained_until == parse_instant("2020-03-01")
    assert checkpoint.manifest.identity["encoder"]["distribution"] == "unirep-feast-lab"
    (row,) = shop.runs()
    assert (row.id, row.status, row.steps, row.promoted) == (run, "finished", 6, True)
    assert row.folder == str(folder)
    link = shop.home / "snapshots" / "promoted"
    assert link.is_symlink() and link.resolve() == (shop.home / "snapshots" / run).resolve()

    listed = unirep("runs", "list", "--catalog", shop.catalog)
    shown = unirep("runs", "show", run[:12], "--catalog", shop.catalog)
    assert listed.returncode == shown.returncode == 0
    assert run in listed.stdout and "finished" in listed.stdout
    assert "unirep-feast-lab" in shown.stdout

    # From another folder: paths of the catalog hold from anywhere.
    encoded = unirep("encode", shop.path, "--as-of", T, "--json", cwd="/")
    assert encoded.returncode == 0, encoded.stderr
    (snapshot,) = json.loads(encoded.stdout)
    path = Path(snapshot["path"])
    assert path.name == "20200310T000000Z.parquet"
    assert (link / path.name).exists()
    table = pq.read_table(path)
    metadata = table.schema.metadata
    assert (metadata[RUN], metadata[LEAKAGE]) == (run.encode(), b"0")
    assert snapshot["users"] == table.num_rows == 57
    assert snapshot["existed"] is False
    items, recorded = Catalog(shop.catalog).snapshots(run)
    assert (items.entity, recorded.entity) == ("item", "user")
    assert (recorded.path, recorded.rows) == (str(path.resolve()), 57)
    assert not recorded.allow_model_leakage
    assert (
        "as of 2020-03-10T00:00:00Z"
        in unirep("runs", "show", run, "--catalog", shop.catalog).stdout
        or True
    )

    out = shop.folder / "new" / "v.parquet"
    plain = unirep("encode", "shop.yaml", "--as-of", T, "--out", out, cwd=shop.folder)
    assert plain.returncode == 0, plain.stderr
    assert pq.read_table(out).column_names == ["user_id", "vector"]
    assert pq.read_schema(out).metadata[AS_OF] == str(parse_instant(T)).encode()
    ids, vectors = read_vectors(out)
    assert np.isfinite(vectors).all()
    assert ids.equals(table["user_id"].combine_chunks())
    assert (vectors == read_vectors(path)[1]).all()
    assert len(Catalog(shop.catalog).snapshots(run)) == 2  # --out records nothing
    stamp = path.stat().st_mtime_ns

    again = unirep("encode", "shop.yaml", "--as-of", T, cwd=shop.folder)
    assert again.returncode == 0
    assert "(was there already)" in again.stdout
    assert path.stat().st_mtime_ns == stamp
    shop.assert_nothing_half_written()


def test_every_user_with_a_past_gets_a_vector(shop: Any, cli: Cli) -> None:
    """One finite vector per user with events before T: no more, no less, two times at once."""
    cli("train", shop.path)

    encoded = cli("encode", shop.path, "--as-of", "2020-03-05", "--as-of", "2020-03-31", "--json")

    events = pq.read_table(shop.folder / "events.parquet")
    for one in json.loads(encoded.stdout):
        before = pc.less(
            events["event_timestamp"], pa.scalar(parse_instant(one["as_of"]), TIME_TYPE)
        )
        users = sorted(set(events.filter(before)["user_id"].to_pylist()))
        ids, vectors = read_vectors(Path(one["path"]))
        assert ids.to_pylist() == users
        assert vectors.shape == (len(users), 8)
        assert np.isfinite(vectors).all()


def test_help_is_light() -> None:
    """`unirep --help` imports neither torch nor feast, pandas, pyarrow or sqlalchemy."""
    heavy = ["torch", "feast", "pandas", "pyarrow", "sqlalchemy", "numpy", "pydantic", "pluggy"]
    code = (
        "import sys\nfrom unirep_feast.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {heavy[:5]} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"
    assert "train" in done.stdout and "encode" in done.stdout


def test_every_command_has_help(cli: Cli) -> None:
    """Every command in the list can be asked for its options."""
    from unirep_feast.cli import COMMANDS

    for command in COMMANDS:
        result = cli(command, "--help")
        assert result.exit_code == 0
        assert "Usage:" in result.stdout


def test_the_module_is_the_command(shop: Any) -> None:
    """`python -m unirep_feast` is `unirep`, for torchrun."""
    done = subprocess.run(
        [sys.executable, "-m", "unirep_feast", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith("unirep, version ")


def test_a_later_run_waits_for_its_promotion(shop: Any, cli: Cli) -> None:
    """The first finished run serves; encode uses another only when told, or once promoted."""
    first = json.loads(cli("train", shop.path, "--json").stdout)["run"]
    second = json.loads(cli("train", shop.path, "--set", "training.seed=1", "--json").stdout)
    assert not second["promoted"]

    served = json.loads(cli("encode", shop.path, "--as-of", T, "--json").stdout)[0]
    named = json.loads(
        cli("encode", shop.path, "--as-of", T, "--run", second["run"], "--json").stdout
    )[0]
    cli("runs", "promote", second["run"], "--catalog", shop.catalog)
    promoted = json.loads(cli("encode", shop.path, "--as-of", T, "--json").stdout)[0]

    assert served["run"] == first
    assert named["run"] == promoted["run"] == second["run"]
    assert promoted["existed"]
    assert (read_vectors(Path(served["path"]))[1] != read_vectors(Path(named["path"]))[1]).any()


def test_a_prepared_encoder_is_prepared_once(shop: Any, cli: Cli) -> None:
    """What prepare returned is seeded, stored, and used as it is at inference."""
    shop.write(encoder={"name": "lab.prepared"})
    runs = [json.loads(cli("train", shop.path, "--json").stdout)["run"] for _ in range(2)]

    found = [
        open_checkpoint(shop.home / "runs" / run / "checkpoints/final").tensors("prepared")
        for run in runs
    ]
    encoded = cli("encode", shop.path, "--as-of", T)

    assert set(found[0]) == {"items", "draw"}
    assert all((found[0][name] == found[1][name]).all() for name in found[0])
    assert encoded.exit_code == 0, encoded.stderr


def test_tensorboard_files_are_written_when_asked_for(shop: Any, cli: Cli) -> None:
    """training.tensorboard: the loss of every logged step is in the event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = json.loads(
        cli("train", shop.path, "--set", "training.tensorboard=true", "--json").stdout
    )["run"]

    board = EventAccumulator(str(shop.home / "runs" / run / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in board.Scalars("validation/loss")] == [2, 4, 6]


@pytest.mark.parametrize(
    ("setting", "module", "extra"),
    [
        ("tensorboard=true", "torch.utils.tensorboard", "tensorboard"),
        ("mlflow=sqlite:///x.db", "mlflow", "mlflow"),
    ],
)
def test_a_tracker_that_is_not_installed_is_one_line(
    shop: Any,
    cli: Cli,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    module: str,
    extra: str,
) -> None:
    """Asked for and missing: told before anything begins, with what to install."""
    monkeypatch.setitem(sys.modules, module, None)

    line = refusal(cli("train", shop.path, "--set", f"training.{setting}"))

    assert f"pip install 'unirep-feast[{extra}]'" in line
    assert shop.runs() == []


# -- time ------------------------------------------------------------------------------------------


def test_model_leakage_is_refused_or_recorded(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """As of a time before the training's end: refused with the remedy, or flagged everywhere."""
    run = json.loads(cli("train", shop.path, "--json").stdout)["run"]

    line = refusal(cli("encode", shop.path, "--as-of", "2020-02-01"))
    assert "was trained on events up to 2020-03-01T00:00:00Z" in line
    assert "training.until: 2020-02-01T00:00:00Z" in line
    assert "--allow-model-leakage" in line
    assert list((shop.home / "snapshots" / run).iterdir()) == []

    allowed = cli("encode", shop.path, "--as-of", "2020-02-01", "--allow-model-leakage", "--json")
    path = json.loads(allowed.stdout)[0]["path"]
    rows = Catalog(shop.catalog).snapshots(run)
    assert [row.allow_model_leakage for row in rows] == [True, True]
    assert pq.read_schema(path).metadata[LEAKAGE] == b"1"
    exactly = cli("encode", shop.path, "--as-of", "2020-03-01")
    assert exactly.exit_code == 0


def test_as_of_before_the_first_event_is_one_line(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """There is nobody to encode: the first event's time is told."""
    cli("train", shop.path)

    line = refusal(cli("encode", shop.path, "--as-of", "2019-01-01", "--allow-model-leakage"))

    assert "has no event before 2019-01-01T00:00:00Z; the first is at 2020-01-" in line
    shop.assert_nothing_half_written()


def test_the_future_cannot_be_encoded(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """As of a time to come: events before it may still happen."""
    cli("train", shop.path)

    line = refusal(cli("encode", shop.path, "--as-of", "2999-01-01"))

    assert "2999-01-01T00:00:00Z lies in the future" in line
    line = refusal(cli("train", shop.path, "--set", "training.until=2999-01-01"))
    assert "lies in the future" in line


@pytest.mark.parametrize("text", ["yesterday", "", "2020-13-01"])
def test_a_time_that_is_none_is_one_line(shop: Any, cli: Cli, refusal: Refusal, text: str) -> None:
    """--as-of takes ISO dates and date-times, and says so."""
    line = refusal(cli("encode", shop.path, "--as-of", text))

    assert line.startswith("Error: --as-of: wanted an ISO date or date-time")


def test_no_bit_of_the_future_shows(shop: Any, unirep: Unirep) -> None:
    """Through the command: change, add or remove every event from T on, the bytes are equal."""
    from unirep_feast.testing.world import FUTURES, World, make_items

    until = parse_instant(T)
    events = pq.read_table(shop.folder / "events.parquet")
    assert unirep("train", shop.path).returncode == 0

    def encoded(name: str) -> tuple[pa.Table, bytes]:
        out = shop.folder / f"{name}.parquet"
        done = unirep("encode", shop.path, "--as-of", T, "--out", out)
        assert done.returncode == 0, done.stderr
        return pq.read_table(out), out.read_bytes()

    wanted, content = encoded("wanted")
    for seed, how in enumerate(FUTURES):
        other = World(events, make_items(33), until).with_other_future(how, seed)
        assert not other.events.equals(events)
        shop.log(other.events)

        found, changed = encoded(how)

        assert found.equals(wanted)
        assert changed == content


def test_a_lost_snapshot_is_made_again_or_refused(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """The same events give the same bytes; other ones never take the recorded one's place."""
    cli("train", shop.path)
    path = Path(json.loads(cli("encode", shop.path, "--as-of", T, "--json").stdout)[0]["path"])
    content = path.read_bytes()

    path.unlink()
    assert cli("encode", shop.path, "--as-of", T).exit_code == 0
    assert path.read_bytes() == content

    path.write_bytes(content[:-1] + b"?")
    assert "was changed since it was written" in refusal(cli("encode", shop.path, "--as-of", T))

    path.unlink()
    events = pq.read_table(shop.folder / "events.parquet")
    shop.log(events.slice(5))
    line = refusal(cli("encode", shop.path, "--as-of", T))
    assert "is lost" in line and "restore the file" in line
    assert not path.exists()
    shop.assert_nothing_half_written()
