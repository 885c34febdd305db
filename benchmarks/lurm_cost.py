"""What a lifetime costs under LURM: time and memory by events, 100,000 interests, clustering.

    python benchmarks/lurm_cost.py                 all of the below, each in a process of its own
    python benchmarks/lurm_cost.py encode 10000    users with 10,000 events each over 14 years
    python benchmarks/lurm_cost.py dense           a training step of 256 users, D = 100,000
    python benchmarks/lurm_cost.py cluster hdsc    200,000 x 128 into 10,000 centres; or kmeans
    python benchmarks/lurm_cost.py cluster kmeans --items 1000000 --interests 100000 --device cuda

Weights, item vectors and behaviors are random: cost does not depend on them. `encode` goes through
`Inference.encode`, the path of `unirep encode`, with the paper's sizes (10 anchors x 128, monthly
and yearly, D = 100,000). Exits with 1 if cost grows faster than events do, or if a step holds a
tensor as large as dense bags would be; CPU time is what is held against events, since a machine may
be busy with something else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from typing import Any

import measuring

EVENTS = (1_000, 10_000, 100_000, 200_000)
USERS = 8
YEARS = 14
MICROSECONDS_PER_YEAR = 31_556_952_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", nargs="?", choices=["encode", "dense", "cluster"])
    parser.add_argument("what", nargs="?", help="events per user, or hdsc / kmeans")
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--interests", type=int, default=10_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    if options.job is None:
        every()
    elif options.job == "encode":
        encode(int(options.what), options.repetitions)
    elif options.job == "dense":
        dense()
    else:
        cluster(options)


def every() -> None:
    """Run each job by itself, print its line, and hold cost against events."""
    lines = [run("encode", str(events)) for events in EVENTS]
    for before, after in itertools.pairwise(lines):
        more = after["events"] / before["events"]
        # A tenth of room for noise; below 50 MB memory is the allocator's more than ours.
        for what, least in (("cpu_seconds_per_user", 0), ("memory_mb", 50)):
            if after[what] > 1.1 * more * max(before[what], least):
                sys.exit(f"{what} grows from {before[what]} to {after[what]} for {more}x events")
    run("dense")
    for way in ("hdsc", "kmeans"):
        run("cluster", way)


def run(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    print(done.stdout, end="", flush=True)
    line: dict[str, Any] = json.loads(done.stdout)
    return line


def encode(events: int, repetitions: int) -> None:
    with measuring.one_json_line() as emit:
        measuring.single_thread()
        import numpy as np

        from unirep_feast.config import EncodeConfig
        from unirep_feast.inference import Inference

        encoder, vocabulary, items = network(100_000)
        sequences = lifetimes(vocabulary, items, USERS, events, YEARS)
        inference = Inference(encoder, EncodeConfig(device="cpu", threads=1), "lurm")
        made: list[np.ndarray] = []

        def job() -> None:
            nonlocal made
            blocks = inference.encode(sequences, sequences.until)
            made = [block.vectors for block in blocks]

        before = measuring.peak_rss_mb()
        clock = measuring.repeat(job, warmup=1, repetitions=repetitions)
        if not np.isfinite(np.concatenate(made)).all() or made[0].shape[1] != 1280:
            sys.exit(f"vectors of shape {made[0].shape}, or not finite")
        emit(
            f"lurm encode, {events:,} events per user",
            "users/s",
            USERS,
            clock,
            events=events,
            cpu_seconds_per_user=statistics.median(clock.cpu) / USERS,
            seconds_per_user=statistics.median(clock.wall) / USERS,
            memory_mb=round(measuring.peak_rss_mb() - before, 1),
        )


def dense() -> None:
    with measuring.one_json_line() as emit:
        measuring.single_thread()
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        from unirep_feast_lurm.config import ObjectiveSettings
        from unirep_feast_lurm.objective import LurmObjective

        largest = 0

        class Largest(TorchDispatchMode):
            """Remembers the largest tensor that any operation gives."""

            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
                nonlocal largest
                out = func(*args, **(kwargs or {}))
                for one in out if isinstance(out, tuple | list) else (out,):
                    if isinstance(one, torch.Tensor):
                        largest = max(largest, one.numel())
                return out

        B, D = 256, 100_000
        encoder, vocabulary, items = network(D)
        objective = LurmObjective(10, 128, ObjectiveSettings())
        batch = lifetimes(vocabulary, items, B, 200, 5).histories(torch.arange(B))
        before = measuring.peak_rss_mb()

        def job() -> None:
            for module in (encoder, objective):
                module.zero_grad()
            objective(encoder, {"first": batch, "second": batch}).total().backward()

        clock = measuring.repeat(job, warmup=0, repetitions=2)
        memory = measuring.peak_rss_mb() - before
        with Largest():
            job()
        bags = B * 60 * D
        emit(
            "lurm step, 256 users x 200 events x 60 months, 100,000 interests",
            "users/s",
            B,
            clock,
            memory_mb=round(memory, 1),
            largest_tensor=largest,
            dense_bags=bags,
        )
        if largest * 10 > bags:
            sys.exit(f"a tensor of {largest:,} numbers; dense bags would have {bags:,}")


def cluster(options: argparse.Namespace) -> None:
    with measuring.one_json_line() as emit:
        import torch
        import torch.nn.functional as F

        from unirep_feast_lurm.clustering import assign, hdsc, kmeans

        torch.set_num_threads(options.threads)
        generator = torch.Generator().manual_seed(0)
        # Clumps of about 20, as titles of like items are.
        kinds = torch.randn(options.items // 20, 128, generator=generator)
        of = torch.randint(len(kinds), (options.items,), generator=generator)
        noise = torch.randn(options.items, 128, generator=generator)
        x = F.normalize(kinds[of] + 0.5 * noise, dim=1).to(options.device)
        del noise
        clock = measuring.Clock()
        generator.manual_seed(0)
        clock.start()
        if options.what == "kmeans":
            centres = kmeans(x, options.interests, 5, generator)
        else:
            centres = hdsc(x, options.interests, 0.02, generator)
        places, _ = assign(x, centres, 1, 1.0)
        if options.device == "cuda":
            torch.cuda.synchronize()
        clock.stop()
        cosine = float((x * centres[places[:, 0]]).sum(1).mean())
        emit(
            f"lurm {options.what}, {options.items:,} x 128 into {options.interests:,}, "
            f"{options.device}",
            "items/s",
            options.items,
            clock,
            cosine=round(cosine, 4),
            used=len(places.unique()),
            threads=options.threads,
        )


def network(interests: int) -> tuple[Any, Any, Any]:
    """The paper's network over made-up interests, one item each; vocabulary and item table."""
    import pyarrow as pa
    import torch
    import torch.nn.functional as F

    from unirep_feast.batch import FIRST_ITEM
    from unirep_feast.items import ItemTable, Vocabulary
    from unirep_feast_lurm.config import EncoderSettings
    from unirep_feast_lurm.encoder import LurmEncoder

    torch.manual_seed(0)
    codes = interests + FIRST_ITEM
    shares = torch.ones(codes, 1)
    shares[:FIRST_ITEM] = 0
    prepared = {
        "interests.places": (torch.arange(codes) - FIRST_ITEM).clamp(min=0)[:, None],
        "interests.shares": shares,
        "interests.centres": F.normalize(torch.randn(interests, 128), dim=1),
    }
    vocabulary = Vocabulary(pa.array(range(interests)), pa.array([1] * interests))
    encoder = LurmEncoder(codes, EncoderSettings(items="id"), prepared)
    items = ItemTable.build(vocabulary, None)
    encoder.bind(items)
    return encoder, vocabulary, items


def lifetimes(vocabulary: Any, items: Any, users: int, events: int, years: int) -> Any:
    """Users with so many events each over so many years, interests by a power law."""
    import pyarrow as pa
    import torch

    from unirep_feast.batch import FIRST_ITEM
    from unirep_feast.instants import parse_instant
    from unirep_feast.sequences import Sequences

    generator = torch.Generator().manual_seed(1)
    count = len(vocabulary) - FIRST_ITEM
    lot = torch.rand(users * events, generator=generator, dtype=torch.float64)
    codes = FIRST_ITEM + (count**lot - 1).long().clamp(max=count - 1)  # log-uniform ranks
    when = torch.rand(users, events, generator=generator, dtype=torch.float64).sort(1).values
    begin = parse_instant("2000-08-09")
    offsets = torch.arange(users + 1) * events
    return Sequences(
        users=pa.array(range(users)),
        starts=offsets[:-1],
        ends=offsets[1:],
        codes=codes.int(),
        times=begin + (when * years * MICROSECONDS_PER_YEAR).long().flatten(),
        vocabulary=vocabulary,
        items=items,
        until=begin + years * MICROSECONDS_PER_YEAR + 1,
    )


if __name__ == "__main__":
    main()
