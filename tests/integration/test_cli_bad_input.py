"""Bad input to `unirep train` and `unirep encode`: one line, exit code 1, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

Unirep = Callable[..., subprocess.CompletedProcess[str]]
Cli = Callable[..., Result]
Refusal = Callable[[Any], str]

T = "2020-03-10"


# -- bad specs -------------------------------------------------------------------------------------


def test_all_problems_of_a_spec_are_one_line(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """Unknown keys, wrong types, of the spec and of all parts' settings: reported together."""
    shop.write(
        nonsense=1,
        training__batch_size="many",
        training__learning_rat=0.1,
        encoder={"settings": {"dim": "wide", "heads": 2}},
        objective={"settings": {"steps": "perhaps"}},
        sampler={"name": "lab.nothing"},
    )

    for command in (["train", shop.path], ["encode", shop.path, "--as-of", T]):
        line = refusal(cli(*command))
        assert line.startswith(f"Error: spec {shop.path}: ")
        for problem in (
            "unknown key `nonsense`",
            "training.batch_size: ",
            "found 'many'",
            "unknown key `training.learning_rat`",
            "encoder.settings: dim: ",
            "encoder.settings: unknown key `heads`",
            "(the settings of encoder 'lab' are dim, vectors, ",
            "objective.settings: steps: ",
            "no plugin offers sampler 'lab.nothing'; found: ",
        ):
            assert problem in line
    assert not (shop.folder / "data").exists()


def test_settings_alone_are_reported_together_too(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """A sound spec with wrong settings in two parts is one line with both."""
    shop.write(encoder={"settings": {"dim": "wide"}}, sampler={"settings": {"x": 1}})

    line = refusal(cli("train", shop.path))

    assert "encoder.settings: dim: " in line
    assert "sampler.settings: unknown key `x`" in line
    assert not (shop.folder / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{folder}/none.yaml"], "none.yaml: No such file or directory; give the path"),
        (["train", "{folder}"], "Is a directory"),
        (["train", "{spec}", "--set", "training"], "wanted key=value"),
        (["train", "{spec}", "--set", "plugin=nope"], "no plugin offers encoder 'nope'"),
        (["encode", "{spec}", "--as-of", T], "there is no catalog"),
        (["train", "{spec}", "--set", "training.device=cuda:77"], "CUDA devices"),
        (["train", "{spec}", "--set", "vocabulary.min_count=999"], "no item has 999 events before"),
        (["train", "{spec}", "--set", "training.init_from=x"], "no run begins with 'x'"),
        (["train", "{spec}", "--set", "sampler.settings.min_events=99"], "0 units to train on"),
        (["train", "{spec}", "--set", "objective.settings.terms=nan"], "the loss is nan at step 1"),
        (["train", "{spec}", "--set", "encoder.settings.fails=raise"], "the flux capacitor is"),
        (
            [
                "train",
                "{spec}",
                "--set",
                "encoder.name=lab.bare",
                "--set",
                "objective.settings.steps=true",
            ],
            "requires steps, which encoder 'lab.bare' does not provide",
        ),
        (
            ["train", "{spec}", "--set", "objective.name=lab.other"],
            "needs views a, c, but sampler 'lab' supplies a, b",
        ),
        (["train", "{spec}", "--set", "events.path=none.parquet"], "no such file or folder"),
    ],
)
def test_bad_input_is_one_line(
    shop: Any, cli: Cli, refusal: Refusal, arguments: list[str], message: str
) -> None:
    """Exit code 1, one line that begins with Error:, no traceback, nothing half-written."""
    filled = [a.format(folder=shop.folder, spec=shop.path) for a in arguments]

    line = refusal(cli(*filled))

    assert message in line
    assert {run.status for run in shop.runs()} <= {"failed"}
    shop.assert_nothing_half_written()


def test_verbose_shows_the_traceback(shop: Any, unirep: Unirep, refusal: Refusal) -> None:
    """The same failure by the real executable: one line; with --verbose the traceback as well."""
    bad = ["train", shop.folder / "none.yaml"]

    plain, verbose = unirep(*bad), unirep("--verbose", *bad)

    assert refusal(plain) == plain.stderr.strip()
    assert plain.stdout == ""
    assert verbose.returncode == 1
    assert "Traceback (most recent call last)" in verbose.stderr
    assert "SpecError" in verbose.stderr


def test_a_broken_plugin_hurts_only_what_needs_it(
    shop: Any, unirep: Unirep, refusal: Refusal
) -> None:
    """With a plugin installed that fails on import everything else works, and list says why."""
    site = shop.folder / "site"
    info = site / "broken_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unirep_feast]\nbroken = broken_hooks\n")
    (site / "broken_hooks.py").write_text("raise ImportError('needs a library\\nthat is gone')\n")
    env = {"PYTHONPATH": f"{site}{os.pathsep}{os.environ['PYTHONPATH']}"}

    listed = unirep("plugins", "list", env=env)
    trained = unirep("train", shop.path, env=env)
    line = refusal(unirep("train", shop.path, "--set", "plugin=broken", env=env))

    assert "broken  broken-plugin 1.0  broken" in listed.stdout
    assert "ImportError: needs a library that is gone" in listed.stdout
    assert trained.returncode == 0, trained.stderr
    assert "is broken: ImportError: needs a library that is gone" in line


# -- checkpoints that are not what they should be --------------------------------------------------


@pytest.fixture
def trained(shop: Any, cli: Cli) -> Path:
    """The final checkpoint of a finished run."""
    run = json.loads(cli("train", shop.path, "--json").stdout)["run"]
    return shop.home / "runs" / run / "checkpoints" / "final"


def test_a_truncated_checkpoint_is_one_line(
    shop: Any, trained: Path, cli: Cli, refusal: Refusal
) -> None:
    """Weights cut in half: no snapshot is made of them."""
    path = trained / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:100])

    line = refusal(cli("encode", shop.path, "--as-of", T))

    assert "encoder.safetensors is truncated or was changed" in line
    assert list((shop.home / "snapshots").rglob("*.parquet")) == []


def test_a_manifest_cannot_be_talked_round(
    shop: Any, trained: Path, cli: Cli, refusal: Refusal
) -> None:
    """Changing trained_until by hand does not get past the leakage check."""
    manifest = trained / "checkpoint.json"
    raw = json.loads(manifest.read_text())
    raw["trained_until"] = 0
    manifest.write_text(json.dumps(raw))

    line = refusal(cli("encode", shop.path, "--as-of", "2020-02-01"))

    assert "checkpoint.json is truncated or was changed" in line


def test_a_missing_checkpoint_is_one_line(
    shop: Any, trained: Path, cli: Cli, refusal: Refusal
) -> None:
    """A checkpoint that somebody removed is told as such."""
    shutil.rmtree(trained)

    assert "is no checkpoint" in refusal(cli("encode", shop.path, "--as-of", T))


def test_another_encoder_is_refused(shop: Any, trained: Path, cli: Cli, refusal: Refusal) -> None:
    """A spec that names another encoder than the run's says both, and what differs."""
    line = refusal(cli("encode", shop.path, "--as-of", T, "--set", "encoder.name=lab.bare"))

    assert "is of encoder 'lab' from unirep-feast-lab 1.0, the spec gives 'lab.bare'" in line
    assert "(another name)" in line


def other_version(shop: Any) -> dict[str, str]:
    """Install version 2.0 of the lab plugin in place of 1.0."""
    lab = Path(os.environ["PYTHONPATH"])
    site = shop.folder / "site"
    shutil.copytree(lab / "unirep_feast_lab", site / "unirep_feast_lab")
    info = site / "unirep_feast_lab-2.0.dist-info"
    shutil.copytree(lab / "unirep_feast_lab-1.0.dist-info", info)
    (info / "METADATA").write_text(
        (info / "METADATA").read_text().replace("Version: 1.0", "Version: 2.0")
    )
    return {"PYTHONPATH": str(site)}


def test_another_version_of_the_plugin_is_refused(
    shop: Any, unirep: Unirep, refusal: Refusal
) -> None:
    """Encoding, and resuming, with another version of the plugin says both versions."""
    assert unirep("train", shop.path).returncode == 0
    interrupted = unirep(
        "train", shop.path, "--set", "objective.settings.nan_after=50", "--set", "training.seed=1"
    )
    assert interrupted.returncode == 1
    env = other_version(shop)

    encoded = refusal(unirep("encode", shop.path, "--as-of", T, env=env))
    resumed = refusal(
        unirep(
            "train",
            shop.path,
            "--set",
            "objective.settings.nan_after=50",
            "--set",
            "training.seed=1",
            "--resume",
            env=env,
        )
    )

    for line in (encoded, resumed):
        assert "from unirep-feast-lab 1.0, the spec gives 'lab' from unirep-feast-lab 2.0" in line
        assert "(another version); install that version, or train anew" in line


def test_settings_of_the_run_decide(shop: Any, trained: Path, cli: Cli) -> None:
    """A spec whose encoder settings have changed since still encodes with the run's."""
    first = cli("encode", shop.path, "--as-of", T, "--out", shop.folder / "1.parquet")
    changed = "encoder.settings.dim=32"
    second = cli(
        "encode", shop.path, "--as-of", T, "--out", shop.folder / "2.parquet", "--set", changed
    )

    assert first.exit_code == second.exit_code == 0
    assert "encoder settings of run" in second.stderr
    assert (shop.folder / "1.parquet").read_bytes() == (shop.folder / "2.parquet").read_bytes()


# -- folders that refuse ---------------------------------------------------------------------------


def test_a_storage_that_cannot_be_made_is_one_line(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """A file where the storage folder should be."""
    (shop.folder / "data").write_text("in the way")

    line = refusal(cli("train", shop.path))

    assert "cannot be written: " in line and "name another `storage`" in line


def test_an_output_that_cannot_be_written_is_one_line(
    shop: Any, trained: Path, cli: Cli, refusal: Refusal
) -> None:
    """--out below a file, or at a folder: told, and nothing is left."""
    (shop.folder / "file").write_text("in the way")

    below = refusal(cli("encode", shop.path, "--as-of", T, "--out", shop.folder / "file/v.parquet"))
    folder = refusal(cli("encode", shop.path, "--as-of", T, "--out", shop.folder))
    twice = refusal(
        cli("encode", shop.path, "--as-of", T, "--as-of", "2020-03-12", "--out", "v.parquet")
    )

    assert "cannot be written: " in below
    assert "is a folder; give the name of a file" in folder
    assert "--out holds one snapshot" in twice
    shop.assert_nothing_half_written()


def limited(shop: Any, size: int, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """Call unirep on a disk that takes no file larger than ``size``."""
    code = (
        "import resource, sys, unirep_feast.cli as cli\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "cli.main(sys.argv[1:], prog_name='unirep')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_full_disk_is_one_line(shop: Any, refusal: Refusal, cli: Cli) -> None:
    """Training and encoding on a disk that is full: one line, the run is resumable, no rubbish."""
    shop.write(encoder={"settings": {"dim": 2000}})

    line = refusal(limited(shop, 200_000, "train", shop.path))

    assert "cannot be written: " in line and "File too large" in line
    (run,) = shop.runs()
    assert run.status == "failed" and "File too large" in run.error
    shop.assert_nothing_half_written()
    assert cli("train", shop.path, "--resume").exit_code == 0

    line = refusal(limited(shop, 100_000, "encode", shop.path, "--as-of", T))
    assert "cannot be written: " in line and "File too large" in line
    shop.assert_nothing_half_written()


# -- logs ------------------------------------------------------------------------------------------


def column(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A change of one column of the log."""

    def changed(events: Any) -> Any:
        index = events.column_names.index(name)
        return events.set_column(index, name, change(events[name]))

    return changed


def with_nulls(values: Any) -> pa.Array:
    return pa.array([None, None, *values.to_pylist()[2:]], values.type)


def naive(values: Any) -> Any:
    return values.cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us"))


def later(values: Any) -> pa.Array:
    times = [*values.to_pylist()]
    times[0] = times[0].replace(year=2900)
    return pa.array(times, values.type)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda events: events.rename_columns(["u", *events.column_names[1:]]), "'user_id'"),
        (lambda events: events.drop_columns(["event_timestamp"]), "'event_timestamp'"),
        (lambda events: events.slice(0, 0), "has no rows"),
        (column("user_id", with_nulls), "2 with null user_id"),
        (column("item_id", with_nulls), "2 with null item_id"),
        (column("event_timestamp", with_nulls), "2 with null event_timestamp"),
        (column("event_timestamp", naive), "without a time zone"),
        (column("event_timestamp", lambda c: c.cast(pa.string())), "wanted a timestamp"),
        (column("user_id", lambda c: c.cast(pa.float64())), "wanted an integer or a string"),
        (lambda events: events.slice(0, 1), "0 units to train on"),
    ],
)
def test_a_bad_log_is_one_line(
    shop: Any, cli: Cli, refusal: Refusal, change: Callable[[Any], Any], message: str
) -> None:
    """Whatever is wrong with the events: one line that says where, and no finished run."""
    shop.write(training__until=None)
    shop.log(change(pq.read_table(shop.folder / "events.parquet")))

    line = refusal(cli("train", shop.path))

    assert message in line
    assert {run.status for run in shop.runs()} <= {"failed"}
    shop.assert_nothing_half_written()


def test_a_log_that_is_no_parquet_is_one_line(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """A CSV of that name, and a parquet file cut in half."""
    path = shop.folder / "events.parquet"
    content = path.read_bytes()

    for broken in (b"user_id,item_id\n1,2\n", content[: len(content) // 2], b""):
        path.write_bytes(broken)
        assert "cannot be read as parquet" in refusal(cli("train", shop.path))


def test_events_of_the_future_are_counted(shop: Any, cli: Cli, refusal: Refusal) -> None:
    """Later than now: refused, or dropped and counted where the spec says so."""
    shop.write(training__until=None)
    shop.log(column("event_timestamp", later)(pq.read_table(shop.folder / "events.parquet")))

    assert "1 later than now" in refusal(cli("train", shop.path))
    dropped = cli("train", shop.path, "--set", "events.drop_future=true")
    assert dropped.exit_code == 0, dropped.stderr
    assert "1 (later than now)" in dropped.stderr


def test_rows_that_cannot_be_used_are_dropped_when_asked(shop: Any, cli: Cli) -> None:
    """--drop-invalid counts what it drops, and why."""
    shop.log(column("user_id", with_nulls)(pq.read_table(shop.folder / "events.parquet")))

    result = cli("train", shop.path, "--drop-invalid")

    assert result.exit_code == 0, result.stderr
    assert "(null user_id)" in result.stderr.splitlines()[0]
