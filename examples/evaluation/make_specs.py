"""Write a spec of every baseline, and of `universal`, for a data set with a tasks.yaml.

    python examples/evaluation/make_specs.py ml-1m    # into examples/evaluation/ml-1m/specs/made
    unirep evaluate examples/evaluation/ml-1m/tasks.yaml \
        examples/evaluation/ml-1m/specs/*.yaml examples/evaluation/ml-1m/specs/made/*.yaml
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent


def made_specs(data_set: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Spec by name, with paths relative to the folder they will lie in."""
    template = yaml.safe_load((HERE / "baselines.yaml").read_text(encoding="utf-8"))
    given = template["data_sets"][data_set]
    tasks = yaml.safe_load((HERE / data_set / "tasks.yaml").read_text(encoding="utf-8"))
    common = {
        "events": {**_moved(tasks["events"], data_set, folder), "columns": given["columns"]},
        "items": _moved(tasks["items"], data_set, folder),
    }
    specs = {
        name: {
            **common,
            **parts,
            "training": {**template["common"]["training"], **parts.get("training", {})},
            "encode": template["common"]["encode"],
        }
        for name, parts in _filled(template["representations"], given).items()
    }
    universal = yaml.safe_load((HERE / "universal.yaml").read_text(encoding="utf-8"))
    threads = {"training": {**universal["training"], "threads": 1}, "encode": {"threads": 1}}
    specs["universal"] = {**universal, **common, **threads}
    return {name: {**spec, "name": name} for name, spec in specs.items()}


def write_specs(data_set: str, folder: Path) -> list[Path]:
    """Write them; files of before are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, spec in made_specs(data_set, folder).items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
        written.append(path)
    return written


def _moved(source: dict[str, Any], data_set: str, folder: Path) -> dict[str, Any]:
    """A source of a tasks.yaml as a file in another folder names it."""
    path = (HERE / data_set / source["path"]).resolve()
    return {**source, "path": os.path.relpath(path, folder.resolve())}


def _filled(value: Any, given: dict[str, Any]) -> Any:
    """Put what the data set says where ``{key}`` stands."""
    if isinstance(value, dict):
        return {key: _filled(below, given) for key, below in value.items()}
    if isinstance(value, list):
        return [_filled(below, given) for below in value]
    if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
        return given[value[1:-1]]
    return value


def main() -> None:
    """Read arguments, write specs and name them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_set", choices=["ml-1m", "online-retail", "dunnhumby"])
    parser.add_argument("--out", type=Path, help="default: specs/made of the data set")
    arguments = parser.parse_args()
    folder = arguments.out or HERE / arguments.data_set / "specs" / "made"
    for path in write_specs(arguments.data_set, folder):
        print(path)


if __name__ == "__main__":
    main()
