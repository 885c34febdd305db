"""Label rows as training units: profiles (one per user) or cold-start items (several)."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from unirep_feast.errors import TrainingError
from unirep_feast.objective import Views
from unirep_feast.sampler import Draw, Units
from unirep_feast.sequences import Sequences
from unirep_feast_clue.config import LabelsSettings


@dataclass(frozen=True)
class LabelRows:
    """The rows of a label table that became units.

    Attributes:
        users: (n,) int64 user rows.
        codes: (n,) int64 label codes.
        as_of: (n,) int64 microseconds; a row's history ends strictly before it.
        left_out: rows that became no units, by reason.
    """

    users: Tensor
    codes: Tensor
    as_of: Tensor
    left_out: dict[str, int]


class LabelsSampler:
    """Views ``history`` and ``label`` for the rows of a parquet table.

    "If u has g different labels, then there will be g instances for u" (section III-A). The label
    codes are places among the sorted distinct labels of the whole table. Rows are left out, and
    counted in :attr:`left_out`, where the label, user or time is null, the user is unknown, the
    time is not before the end of the training data, or too few events precede it.

    Args:
        settings: see :class:`LabelsSettings`.

    Attributes:
        classes: the distinct labels, in code order; read with the table.
        left_out: rows that became no units, by reason; of the last call to :meth:`units`.
    """

    views = frozenset({"history", "label"})

    def __init__(self, settings: LabelsSettings) -> None:
        self.settings = settings
        self.left_out: dict[str, int] = {}
        self._table: pa.Table | None = None
        self._rows: tuple[Sequences, LabelRows] | None = None

    @property
    def classes(self) -> pa.Array:
        """The distinct labels, sorted; code i stands for the i-th."""
        distinct = pc.unique(pc.drop_null(self._read()["label"]))
        return distinct.take(pc.sort_indices(distinct))

    def units(self, sequences: Sequences) -> Tensor:
        """Return (n,) int64: the user row of each label row, in the table's order."""
        rows = self._units(sequences)
        self.left_out = rows.left_out
        return rows.users

    def sample(self, sequences: Sequences, units: Units, draw: Draw) -> Views:
        """Return the histories and (b,) int64 label codes of label rows; nothing is random."""
        rows = self._units(sequences)
        history = sequences.histories(units.users, rows.as_of[units.index])
        return {"history": history, "label": rows.codes[units.index]}

    def _units(self, sequences: Sequences) -> LabelRows:
        # A function of file and sequences alone; kept because every step asks for it.
        if self._rows is None or self._rows[0] is not sequences:
            self._rows = (sequences, self._match(sequences))
        return self._rows[1]

    def _match(self, sequences: Sequences) -> LabelRows:
        table, device, until = self._read(), sequences.device, sequences.until
        left_out: dict[str, int] = {}
        codes = _codes(table["label"], self.classes)
        users = _codes(table["user"], sequences.users)
        as_of = torch.full_like(users, until)
        null_time = torch.zeros_like(users, dtype=torch.bool)
        timed = torch.full_like(null_time, "time" in table.column_names)
        if "time" in table.column_names:
            null_time = torch.from_numpy(pc.is_null(table["time"]).to_numpy().copy())
            as_of = torch.from_numpy(pc.fill_null(table["time"], until).to_numpy().copy())
        kept = torch.ones_like(null_time)
        checks = {
            "null label": codes < 0,
            "null or unknown user": users < 0,
            "null time": null_time,
            # Labels of the time after the cut-off are what the representation is tested on.
            "label after the training data": timed & (as_of >= until),
        }
        for reason, bad in checks.items():
            left_out[reason] = int((kept & bad).sum())
            kept &= ~bad
        users, codes, as_of = (column[kept].to(device) for column in (users, codes, as_of))
        hi = sequences.locate(users, as_of)
        enough = hi - sequences.bounds(users, hi, as_of) >= self.settings.min_events
        left_out["too few events"] = int((~enough).sum())
        left_out = {reason: rows for reason, rows in left_out.items() if rows}
        return LabelRows(users[enough], codes[enough], as_of[enough], left_out)

    def _read(self) -> pa.Table:
        """Read the table once: columns user, label and, where there is one, time (int64)."""
        if self._table is None:
            self._table = _read_labels(self.settings)
        return self._table


def _codes(column: pa.ChunkedArray, among: pa.Array) -> Tensor:
    """(n,) int64 place of each value in an array, -1 for null and for values not in it."""
    values = column.combine_chunks()
    if values.type != among.type:
        try:
            values = values.cast(among.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return torch.full((len(values),), -1, dtype=torch.int64)
    place = pc.index_in(values, value_set=among, skip_nulls=True)
    return torch.from_numpy(pc.fill_null(place, -1).to_numpy().astype("int64"))


def _read_labels(settings: LabelsSettings) -> pa.Table:
    wanted = {"user": settings.user, "label": settings.label}
    if settings.time is not None:
        wanted["time"] = settings.time
    where = f"clue.labels: {settings.path}"
    try:
        schema = pq.read_schema(settings.path)
        missing = [name for name in wanted.values() if name not in schema.names]
        if missing:
            raise TrainingError(
                f"{where}: no column {', '.join(missing)}; found {', '.join(schema.names)}; "
                "set user, label and time in sampler.settings"
            )
        table = pq.read_table(settings.path, columns=list(dict.fromkeys(wanted.values())))
    except OSError as error:
        raise TrainingError(
            f"{where}: {error.strerror or 'cannot be read'}; give a parquet file in "
            "sampler.settings.path"
        ) from None
    except pa.ArrowInvalid as error:
        line = str(error).splitlines()[0]
        raise TrainingError(f"{where} is no parquet file: {line}; convert it") from None
    columns = {role: table[name] for role, name in wanted.items()}
    for role in ("user", "label"):
        if pa.types.is_dictionary(columns[role].type):
            columns[role] = columns[role].cast(columns[role].type.value_type)
    if settings.time is not None:
        kind = columns["time"].type
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise TrainingError(
                f"{where}: column {settings.time} is {kind}, wanted a timestamp with a time zone; "
                "convert it"
            )
        instants = columns["time"].cast(pa.timestamp("us", tz="UTC"))
        columns["time"] = instants.cast(pa.int64())
    return pa.table(columns)
