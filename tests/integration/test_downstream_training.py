"""The example that trains a model on vectors must never rot: it runs here in a small world."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_model_trains_on_vectors_as_they_were_known(tmp_path: Path) -> None:
    """The example trains, judges by later rows and says what it did; its model learns."""
    command = [sys.executable, str(ROOT / "examples" / "downstream_training.py")]
    options = ["--users", "250", "--minutes", "0.05"]

    done = subprocess.run(
        [*command, *options], cwd=tmp_path, text=True, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert re.search(r"[\d,]+ purchases before 20.* to learn from, [\d,]+ after it", done.stdout)
    losses = [float(found) for found in re.findall(r"epoch \d+: loss ([\d.]+)", done.stdout)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert done.stdout.count("among the best five") == 3
    runs = tmp_path / "downstream/data/unirep/purchases_clue/snapshots/promoted"
    assert len(list(runs.glob("*.parquet"))) == 4
