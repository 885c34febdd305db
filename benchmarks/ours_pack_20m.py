"""Ours: 20 million synthetic events in parquet to packed sequences, and the memory it takes.

    python benchmarks/ours_pack_20m.py                     # ids and times
    python benchmarks/ours_pack_20m.py --columns all       # event type and value too

The world (350,000 users, 50,000 items, two years) is written once, by a process of its own, to
`benchmarks/work/`. This process reads and packs it once: `peak_rss_mb` is the most it ever held,
Python, torch and pyarrow included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import measuring

USERS, ITEMS, EVENTS_PER_USER = 350_000, 50_000, 60.0


def write(folder: Path) -> None:
    """Write the synthetic world."""
    from unirep_feast.synthetic import parse_world, write_world

    world = parse_world(users=USERS, items=ITEMS, events_per_user=EVENTS_PER_USER, seed=0)
    write_world(world, folder, overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", choices=("base", "all"), default="all")
    parser.add_argument(
        "--folder", type=Path, default=measuring.ROOT / "benchmarks" / "work" / "world-20m"
    )
    parser.add_argument("--write", action="store_true", help="write the world and end")
    options = parser.parse_args()
    if options.write:
        write(options.folder)
        return
    if not (options.folder / "world.json").exists():
        command = [sys.executable, __file__, "--write", "--folder", str(options.folder)]
        subprocess.run(command, check=True, stdout=sys.stderr)

    with measuring.one_json_line() as emit:
        measuring.single_thread()

        from unirep_feast.events import read_events
        from unirep_feast.packing import pack
        from unirep_feast.sequences import Sequences, fit_vocabulary
        from unirep_feast.spec_file import parse_spec

        named = {"type": "event_type", "value": "value"} if options.columns == "all" else {}
        spec = parse_spec(
            {
                "name": "bench",
                "plugin": "clue",
                "events": {"path": str(options.folder / "events.parquet"), "columns": named},
            },
            "benchmark",
        )
        imported_mb = measuring.peak_rss_mb()
        made: list[Sequences] = []

        def run() -> None:
            packed = pack(read_events(spec))
            vocabulary = fit_vocabulary(packed, until=int(packed.times.max()) + 1)
            made.append(Sequences.from_packed(packed, vocabulary))

        clock = measuring.repeat(run, warmup=0, repetitions=1)
        events = int(made[0].lengths.sum())
        if events < 20_000_000:
            sys.exit(f"{events:,} events, wanted 20 million; remove {options.folder}")
        emit(
            f"unirep-feast pack, {events:,} events, columns {options.columns}",
            "events/s",
            events,
            clock,
            users=len(made[0]),
            columns=options.columns,
            rss_before_mb=round(imported_mb, 1),
        )


if __name__ == "__main__":
    main()
