"""Where snapshots lie, what their footers say, and which run's are served."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Literal, get_args

from unirep_feast.errors import SnapshotError
from unirep_feast.instants import MICROSECONDS_PER_SECOND, format_instant

#: What a row of a snapshot is about: a user, an item, or one of a user's K interests.
Kind = Literal["user", "item", "interest"]

KINDS: tuple[Kind, ...] = get_args(Kind)

PROMOTED = "promoted"

#: Keys of the parquet footer.
RUN, VECTORS, DIM, AS_OF, LEAKAGE, MACHINE, BLOCKS = (
    b"unirep.run",
    b"unirep.vectors",
    b"unirep.dim",
    b"unirep.as_of",
    b"unirep.model_leakage",
    b"unirep.machine",
    b"unirep.blocks",
)

#: Below a run's folder, so that one link promotes all of them in one step.
_BELOW: dict[Kind, str] = {"user": "", "item": "items", "interest": "interests"}


def snapshot_folder(home: Path, run: str, kind: Kind = "user") -> Path:
    """Folder of a run's snapshots of a kind; of the promoted run's, if ``run`` is ``PROMOTED``.

    Users lie in ``<home>/snapshots/<run>``, the other kinds in ``items`` and ``interests`` below.
    """
    return home / "snapshots" / run / _BELOW[kind]


def snapshot_path(home: Path, run: str, as_of: int, kind: Kind = "user") -> Path:
    """Where the snapshot of a run as of a time lies: ``<its folder>/<time>.parquet``."""
    seconds, rest = divmod(as_of, MICROSECONDS_PER_SECOND)
    stamp = format_instant(seconds * MICROSECONDS_PER_SECOND).replace("-", "").replace(":", "")
    name = stamp if rest == 0 else f"{stamp[:-1]}.{rest:06d}Z"
    return snapshot_folder(home, run, kind) / f"{name}.parquet"


def point_promoted(home: Path, run: str) -> None:
    """Make ``<home>/snapshots/promoted`` point at a run's folder, in one step.

    Feature views read that path, so promoting, and going back, never needs another `feast apply`.
    """
    folder = home / "snapshots"
    link = folder / PROMOTED
    temporary = folder / f".{PROMOTED}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        (folder / run).mkdir(parents=True, exist_ok=True)
        temporary.symlink_to(run, target_is_directory=True)
        temporary.replace(link)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SnapshotError(
            f"{link} cannot be pointed at run {run}: {error.strerror or error}; it must be free "
            "to be a link"
        ) from None
