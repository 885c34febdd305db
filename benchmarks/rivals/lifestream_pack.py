"""pytorch-lifestream 0.7: ML-1M events in a dataframe to its list of per-user records.

Run by the rival's own interpreter:

    .rivals/lifestream/bin/python benchmarks/rivals/lifestream_pack.py

Only `fit_transform` is timed, with times handed over as integer seconds. `--columns base` has
`item_id` as the only encoded column: the least work that gives sequences of item codes;
`--columns all` adds event type and value. It transforms in the caller's thread; Dask's workers
stay idle.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", choices=("base", "all"), default="base")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()

    with measuring.one_json_line() as emit:
        measuring.single_thread()
        import lifestream_standin  # noqa: F401  (before ptls)
        from ptls.preprocessing import PandasDataPreprocessor

        further = ["event_type", "value"] if options.columns == "all" else []
        wanted = ["user_id", "item_id", "event_timestamp", *further]
        events = measuring.ml1m_table(wanted).to_pandas()
        events["event_timestamp"] = (
            events["event_timestamp"].astype("int64") // 1_000_000  # the column holds microseconds
        )
        loaded_mb = measuring.peak_rss_mb()
        records: list[dict[str, object]] = []

        def pack() -> None:
            nonlocal records
            preprocessor = PandasDataPreprocessor(
                col_id="user_id",
                col_event_time="event_timestamp",
                event_time_transformation="none",
                cols_category=["item_id", *further[:1]],
                cols_numerical=further[1:],
                return_records=True,
            )
            records = preprocessor.fit_transform(events)

        clock = measuring.repeat(pack, warmup=options.warmup, repetitions=options.repetitions)
        packed = sum(len(record["item_id"]) for record in records)
        if packed != len(events):
            sys.exit(f"packed {packed} of {len(events)} events: not the same job")
        emit(
            "pytorch-lifestream 0.7 PandasDataPreprocessor",
            "events/s",
            packed,
            clock,
            users=len(records),
            columns=options.columns,
            rss_before_mb=round(loaded_mb, 1),
        )


if __name__ == "__main__":
    main()
