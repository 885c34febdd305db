"""Impressions as training units: a user's history as of a moment, and what was shown then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.errors import TrainingError, one_line
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units, seed_of
from unirep_feast.sequences import Sequences
from unirep_feast.splits import hash_ids
from unirep_feast_userbert.config import ImpressionsSettings, TableSettings


@dataclass(frozen=True)
class ImpressionRows:
    """The rows that became units.

    Attributes:
        users: (n,) int64 user rows.
        items: (n,) int64 item codes.
        clicked: (n,) int64, 0 or 1.
        as_of: (n,) int64 microseconds; a row's history ends strictly before it.
        left_out: rows that became no units, by reason.
    """

    users: Tensor
    items: Tensor
    clicked: Tensor
    as_of: Tensor
    left_out: dict[str, int]


class ImpressionsSampler:
    """Views ``history``, ``item`` and ``clicked`` for the rows of a parquet table.

    Rows are left out, and counted in :attr:`left_out`, where user, item, time or label is missing
    or unknown, the time is not before the end of the training data, too few behaviors precede it,
    the user is not in the ``share``, or the user has ``negatives`` others per click already. Which
    are kept is a hash of the table's order: the same in every run.

    Args:
        settings: see :class:`ImpressionsSettings`.

    Attributes:
        left_out: rows that became no units, by reason; of the last call to :meth:`units`.
    """

    views = frozenset({"history", "item", "clicked"})

    def __init__(self, settings: ImpressionsSettings) -> None:
        self.settings = settings
        self.left_out: dict[str, int] = {}
        self._rows: tuple[Sequences, ImpressionRows] | None = None

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64: the user row of each impression, in the table's order."""
        rows = self._units(sequences)
        self.left_out = rows.left_out
        return rows.users

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Return histories, (b,) item codes and (b,) clicks; nothing is random."""
        rows = self._units(sequences)
        return {
            "history": sequences.histories(units.users, rows.as_of[units.index]),
            "item": rows.items[units.index],
            "clicked": rows.clicked[units.index],
        }

    def _units(self, sequences: Sequences) -> ImpressionRows:
        # A function of file and sequences alone; kept because every step asks for it.
        if self._rows is None or self._rows[0] is not sequences:
            rows = match_rows(self.settings, sequences, self.settings.negatives)
            self._rows = (sequences, rows)
        return self._rows[1]


def match_rows(
    settings: TableSettings, sequences: Sequences, negatives: int | None
) -> ImpressionRows:
    """Read the table and find its users, items and times in the histories.

    Args:
        settings: where the table is, and what its columns are.
        sequences: the histories, with the encoder's window.
        negatives: rows without a click that are kept per click of a user; None: all.
    """
    table, device = _read(settings), sequences.device
    users = _places(table["user"], sequences.users)
    items = _places(table["item"], sequences.items.item_ids) + FIRST_ITEM
    clicked = _numbers(table["clicked"])
    as_of = _numbers(table["time"])
    kept = torch.ones_like(users, dtype=torch.bool)
    left_out: dict[str, int] = {}

    def leave_out(reason: str, bad: Tensor) -> None:
        left_out[reason] = int((kept & bad).sum())
        kept.logical_and_(~bad)

    leave_out("null label, or none of the two", clicked < 0)
    leave_out("null or unknown user", users < 0)
    leave_out("null or unknown item", items < FIRST_ITEM)
    leave_out("null time", as_of < 0)
    # What was shown after the cut-off is what the representation is tested on.
    leave_out("after the training data", as_of >= sequences.until)
    asked = torch.nonzero(kept).flatten()
    rows, when = users[asked].to(device), as_of[asked].to(device)
    hi = sequences.locate(rows, when)
    few = torch.zeros_like(kept)
    short = hi - sequences.bounds(rows, hi, when) < settings.min_events
    few[asked] = short.cpu()
    leave_out("too few behaviors", few)
    if settings.share < 1:
        point = hash_ids(sequences.users, seed_of("userbert.share")) / np.float64(2**64)
        inside = torch.from_numpy(point < settings.share)
        leave_out("not in the share", ~inside[users.clamp(min=0)])
    if negatives is not None:
        leave_out("enough others", _surplus(users, clicked, kept, negatives))
    left_out = {reason: count for reason, count in left_out.items() if count}
    users, items, clicked, as_of = (
        column[kept].to(device) for column in (users, items, clicked, as_of)
    )
    return ImpressionRows(users, items, clicked, as_of, left_out)


def _surplus(users: Tensor, clicked: Tensor, kept: Tensor, ratio: int) -> Tensor:
    """Say which rows without a click are more than ``ratio`` per click of their user: (n,) bool."""
    surplus = torch.zeros_like(kept)
    if not bool(kept.any()):
        return surplus
    clicks = torch.bincount(users[kept & (clicked == 1)], minlength=int(users.max()) + 1)
    skipped = torch.nonzero(kept & (clicked == 0)).flatten()
    lot = torch.from_numpy((hash_ids(pa.array(skipped.numpy())) >> np.uint64(1)).astype(np.int64))
    order = skipped[torch.argsort(lot, stable=True)]
    order = order[torch.argsort(users[order], stable=True)]  # by user, drawn within
    of_user = users[order]
    counts = torch.bincount(of_user, minlength=len(clicks))
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[of_user]
    surplus[order] = rank >= ratio * clicks[of_user]
    return surplus


def _places(column: pa.ChunkedArray, among: pa.Array) -> Tensor:
    """(n,) int64 place of each value in an array, far below 0 for null and for values not in it."""
    values = column.combine_chunks()
    if values.type != among.type:
        try:
            values = values.cast(among.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return torch.full((len(values),), -FIRST_ITEM - 1, dtype=torch.int64)
    place = pc.index_in(values, value_set=among, skip_nulls=True)
    return torch.from_numpy(pc.fill_null(place, -FIRST_ITEM - 1).to_numpy().astype("int64"))


def _numbers(column: pa.ChunkedArray) -> Tensor:
    """(n,) int64, -1 for null."""
    return torch.from_numpy(pc.fill_null(column, -1).to_numpy().astype("int64"))


def _read(settings: TableSettings) -> pa.Table:
    """Read the table: columns user, item, time (int64 microseconds), clicked (int64)."""
    roles = {
        "user": settings.user,
        "item": settings.item,
        "time": settings.time,
        "clicked": settings.label,
    }
    where = f"userbert: {settings.path}"
    try:
        names = pq.read_schema(settings.path).names
        missing = [name for name in roles.values() if name not in names]
        if missing:
            raise TrainingError(
                f"{where}: no column {', '.join(missing)}; found {', '.join(names)}; set user, "
                "item, time and label in sampler.settings"
            )
        table = pq.read_table(settings.path, columns=list(dict.fromkeys(roles.values())))
    except OSError as error:
        raise TrainingError(
            f"{where}: {error.strerror or 'cannot be read'}; give a parquet file in "
            "sampler.settings.path"
        ) from None
    except pa.ArrowInvalid as error:
        raise TrainingError(f"{where} is no parquet file: {one_line(error)}; convert it") from None
    columns = {role: table[name] for role, name in roles.items()}
    kind = columns["time"].type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise TrainingError(
            f"{where}: column {settings.time} is {kind}, wanted a timestamp with a time zone; "
            "convert it"
        )
    columns["time"] = columns["time"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    columns["clicked"] = _clicks(columns["clicked"], settings, where)
    return pa.table(columns)


def _clicks(label: pa.ChunkedArray, settings: TableSettings, where: str) -> pa.ChunkedArray:
    """Labels as int64: 1 clicked, 0 not, null neither."""
    if settings.clicked is None:
        if not (pa.types.is_boolean(label.type) or pa.types.is_integer(label.type)):
            raise TrainingError(
                f"{where}: column {settings.label} is {label.type}, wanted 0 and 1; say in "
                "sampler.settings.clicked which value is a click"
            )
        number = label.cast(pa.int64())
        return pc.if_else(pc.is_in(number, value_set=pa.array([0, 1])), number, None)
    named = label.cast(pa.string())
    clicked = pc.equal(named, settings.clicked)
    if settings.skipped is None:
        return clicked.cast(pa.int64())
    either = pc.or_(clicked, pc.equal(named, settings.skipped))
    return pc.if_else(either, clicked.cast(pa.int64()), None)
