"""Ours: ML-1M events to packed, coded sequences.

    python benchmarks/ours_pack.py                     # from a dataframe in memory
    python benchmarks/ours_pack.py --source parquet    # from the file, reading included

Timed is everything between the source and a `Sequences` ready for sampling: checks of every
row, one sort, removal of duplicates, the vocabulary fitted, items coded.
"""

from __future__ import annotations

import argparse
import sys

import measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", choices=("dataframe", "parquet"), default="dataframe")
    parser.add_argument("--columns", choices=("base", "all"), default="base")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()

    with measuring.one_json_line() as emit:
        measuring.single_thread()
        import pyarrow as pa

        from unirep_feast.events import Events, normalise_events, read_events
        from unirep_feast.packing import pack
        from unirep_feast.sequences import Sequences, fit_vocabulary
        from unirep_feast.spec_file import parse_spec

        named = {"type": "event_type", "value": "value"} if options.columns == "all" else {}
        spec = parse_spec(
            {
                "name": "bench",
                "plugin": "clue",
                "events": {
                    "path": str(measuring.data_folder() / "ml-1m" / "events.parquet"),
                    "columns": named,
                },
            },
            "benchmark",
        )
        wanted = ["user_id", "item_id", "event_timestamp", *named.values()]
        frame = measuring.ml1m_table(wanted).to_pandas() if options.source == "dataframe" else None
        loaded_mb = measuring.peak_rss_mb()
        sequences: Sequences | None = None

        def source() -> Events:
            if frame is None:
                return read_events(spec)
            return normalise_events(
                pa.Table.from_pandas(frame, preserve_index=False), spec.events, "dataframe"
            )

        def run() -> None:
            nonlocal sequences
            packed = pack(source())
            vocabulary = fit_vocabulary(packed, until=int(packed.times.max()) + 1)
            sequences = Sequences.from_packed(packed, vocabulary)

        clock = measuring.repeat(run, warmup=options.warmup, repetitions=options.repetitions)
        assert sequences is not None
        events = measuring.ml1m_table(["user_id"]).num_rows
        if int(sequences.lengths.sum()) != events:
            sys.exit(f"packed {int(sequences.lengths.sum())} of {events} events: not the same job")
        emit(
            f"unirep-feast pack, from {options.source}",
            "events/s",
            events,
            clock,
            users=len(sequences),
            columns=options.columns,
            rss_before_mb=round(loaded_mb, 1),
        )


if __name__ == "__main__":
    main()
