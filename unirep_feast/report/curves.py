"""How a training went, from the log beside its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Keys of a record that are no measures.
_PLACE = frozenset({"kind", "step", "epoch", "seconds"})


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """Read the curves of a run.

    A resumed run has written some steps twice; the later line counts. A last line that a kill cut
    short is left out.

    Args:
        folder: of the run, with ``log.jsonl``.

    Returns:
        Curves ``kind name steps values``, in the order they first appear; none without a log.
    """
    try:
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        for name, value in record.items():
            if name not in _PLACE and isinstance(value, int | float):
                key = str(record.get("kind")), name
                curves.setdefault(key, {})[int(record["step"])] = float(value)
    return [
        {"kind": kind, "name": name, "steps": sorted(points), "values": [v for _, v in ordered]}
        for (kind, name), points in curves.items()
        if (ordered := sorted(points.items()))
    ]
