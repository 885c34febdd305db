"""The quickstart is an example that must never rot: it runs here on a small log of one's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_quickstart_runs_on_a_log_of_ones_own(tmp_path: Path) -> None:
    """It trains, encodes, materializes, judges the vectors and fetches some online."""
    bin_ = Path(sys.executable).parent
    synth = ["data", "synth", "world", "--users", "300", "--seed", "3"]
    subprocess.run([bin_ / "unirep", *synth], cwd=tmp_path, check=True)
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py")]
    options = ["--events", "world/events.parquet", "--folder", "quick", "--minutes", "0.1"]

    done = subprocess.run(
        [*command, *options], cwd=tmp_path, text=True, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("  AUC 0.") == 3
    assert "-1: no vector" in done.stdout
    assert list(
        (tmp_path / "quick/data/unirep/purchases_clue/snapshots/promoted").glob("*.parquet")
    )
