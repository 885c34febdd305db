"""Writing a synthetic world: streamed block by block, all of it or nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unirep_feast.config import Frozen
from unirep_feast.errors import EventsError
from unirep_feast.files import atomic_path, fsync
from unirep_feast.instants import Instant
from unirep_feast.synthetic.behavior import Behavior
from unirep_feast.synthetic.tables import WorldTables
from unirep_feast.synthetic.world import World

EVENTS, ITEMS, USERS, SETTINGS = "events.parquet", "items.parquet", "users.parquet", "world.json"


class WorldReport(Frozen):
    """What was written."""

    folder: str
    users: int
    items: int
    events: int
    purchases: int
    churned: int
    first_event: Instant | None
    last_event: Instant | None
    size_bytes: int


def write_world(
    world: World,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> WorldReport:
    """Write a synthetic world into a folder.

    Writes ``events.parquet`` (user_id, item_id, event_timestamp, event_type, value; in no order),
    ``items.parquet`` (item_id, title, category), ``users.parquet`` (user_id, the labels gender,
    segment and country, joined_at, churned_at, and the true mixtures mixture_start and mixture_end)
    and ``world.json`` (the settings). Equal settings give equal bytes. Memory is bounded by about
    2¹⁸ events, or by the most active user where that is more, and by the number of items.

    Args:
        world: the settings.
        folder: made if missing; what fails half-way leaves it as it was.
        progress: called with (users done, users in all) after every block.
        overwrite: replace the world that is in the folder.

    Raises:
        EventsError: the folder is not empty, holds something else than a world, or cannot be
            written (no space, no permission).
    """
    folder = Path(folder).resolve()
    _check_target(folder, overwrite)
    try:
        with _put_in_place(folder, overwrite) as staging:
            report = _write(world, staging, progress)
    except OSError as error:
        raise EventsError(
            f"synthetic world {folder}: {error.strerror or error}; nothing was written, "
            "free some space or choose another folder"
        ) from error
    return report.model_copy(update={"folder": str(folder)})


def _check_target(folder: Path, overwrite: bool) -> None:
    try:
        found = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    except FileNotFoundError:
        return
    except OSError as error:
        raise EventsError(
            f"synthetic world {folder}: {error.strerror}; wanted a folder, choose another"
        ) from None
    strange = sorted(found - {EVENTS, ITEMS, USERS, SETTINGS})
    if strange:
        raise EventsError(
            f"synthetic world {folder}: the folder holds {strange[0]!r}, which no synthetic world "
            "has; choose an empty or a new folder"
        )
    if found and not overwrite:
        raise EventsError(
            f"synthetic world {folder}: the folder is not empty; "
            "choose another, or replace the world in it with --overwrite"
        )


@contextlib.contextmanager
def _put_in_place(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder to write into; on success its files become those of ``folder``.

    A new folder appears in one step. One that is there stays itself (it may be a mount point, or
    somebody's working directory): its files are replaced one by one, the settings last, so that
    ``world.json`` is there only where the files beside it belong together.
    """
    if not folder.exists():
        with atomic_path(folder) as staging:
            staging.mkdir()
            yield staging
        return
    staging = folder / f".{uuid.uuid4().hex[:8]}.tmp"
    staging.mkdir()
    try:
        yield staging
        for file in staging.iterdir():
            fsync(file)
        _check_target(folder, overwrite)  # somebody else may have been quicker
        (folder / SETTINGS).unlink(missing_ok=True)
        for name in (ITEMS, USERS, EVENTS, SETTINGS):
            (staging / name).replace(folder / name)
        fsync(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(world: World, folder: Path, progress: Callable[[int, int], None] | None) -> WorldReport:
    behavior = Behavior(world)
    tables = WorldTables(world, behavior.truth)
    with _parquet(folder / ITEMS, tables.items_schema) as items:
        for table in tables.items():
            items.write_table(table)

    events = purchases = churned = 0
    times: list[int] = []
    with (
        _parquet(folder / EVENTS, tables.events_schema) as events_file,
        _parquet(folder / USERS, tables.users_schema) as users_file,
    ):
        for number in range(behavior.blocks):
            who, what = behavior.draw(number)
            users_file.write_table(tables.users(who))
            churned += int((who.left < world.days).sum())
            if len(what.times):
                events_file.write_table(tables.events(who, what), row_group_size=len(what.times))
                events += len(what.times)
                purchases += int(what.purchases.sum())
                times = [min([*times, what.times.min()]), max([*times, what.times.max()])]
            if progress is not None:
                progress(who.first + len(who.left), world.users)
    settings = json.dumps(world.model_dump(mode="json"), indent=2) + "\n"
    (folder / SETTINGS).write_text(settings, encoding="utf-8")
    return WorldReport(
        folder=str(folder),
        users=world.users,
        items=world.items,
        events=events,
        purchases=purchases,
        churned=churned,
        first_event=int(times[0]) if times else None,
        last_event=int(times[1]) if times else None,
        size_bytes=sum(file.stat().st_size for file in folder.iterdir()),
    )


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # Times are all but distinct: a dictionary of them is built, then thrown away, at a price.
    encoded = [name for name in schema.names if name not in ("event_timestamp", "value")]
    return pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=encoded, store_schema=False
    )
