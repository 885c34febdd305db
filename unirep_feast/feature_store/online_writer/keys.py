"""Entity keys to bytes: a probe key of Feast's own serializer, with the ids put into its slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.online_writer.values import BYTES, cut, join

#: Types of join keys whose raw bytes are known.
COVERED = (ValueType.INT64, ValueType.STRING)

_INT64_BYTES = 8


class KeyEncoder:
    """Serializes entity keys of one feature view, many at a time.

    Keys of the same lengths differ only in the bytes of the ids. Where those stand is found by
    serializing a probe twice, with all bits of one id off and on.
    """

    def __init__(
        self, join_keys: Mapping[str, ValueType], serialize: Callable[[EntityKey], bytes]
    ) -> None:
        """Remember what to ask.

        Args:
            join_keys: name and type of each, of the types in :data:`COVERED`.
            serialize: Feast's serializer for the store.

        Raises:
            StoreError: Feast serializes keys in a way unknown here.
        """
        self._kinds = dict(join_keys)
        self._serialize = serialize
        self._pieces: dict[tuple[int, ...], list[bytes]] = {}
        # An empty id leaves no trace in a probe; so the order of the slots is found without any.
        ones = {name: self._length(name, 1) for name in self._kinds}
        slots = {name: self._slot(name, ones) for name in self._kinds}
        self._order = sorted(slots, key=slots.__getitem__)

    def __call__(self, columns: Mapping[str, pa.Array]) -> pa.LargeBinaryArray:
        """Serialize (n,) keys; ``columns`` holds int64 or (large) string ids without nulls."""
        raw = {name: _raw(columns[name], self._kinds[name]) for name in self._order}
        lengths = np.stack(
            [pc.binary_length(raw[name]).to_numpy(zero_copy_only=False) for name in self._order], 1
        )
        found, which = _distinct(lengths)
        pieces = [self._between(tuple(map(int, combination))) for combination in found]
        words: list[pa.LargeBinaryArray | bytes] = []
        for place, name in enumerate((*self._order, None)):
            alternatives = pa.array([combination[place] for combination in pieces], BYTES)
            words.append(
                pieces[0][place] if len(pieces) == 1 else alternatives.take(pa.array(which))
            )
            if name is not None:
                words.append(raw[name])
        return join(*words)

    def _between(self, lengths: tuple[int, ...]) -> list[bytes]:
        """Return the bytes before, between and after the ids of these lengths."""
        if lengths not in self._pieces:
            named = dict(zip(self._order, lengths, strict=True))
            probe = self._probe(named)
            bounds = [0]
            for name in self._order:
                bounds += self._slot(name, named) if named[name] else (bounds[-1], bounds[-1])
            bounds.append(len(probe))
            around = list(pairwise(bounds))[::2]
            self._pieces[lengths] = [probe[start:end] for start, end in around]
        return self._pieces[lengths]

    def _slot(self, name: str, lengths: Mapping[str, int]) -> tuple[int, int]:
        off, on = self._probe(lengths), self._probe(lengths, switched_on=name)
        different = [place for place, (a, b) in enumerate(zip(off, on, strict=True)) if a != b]
        start = different[0] if different else 0
        if different != list(range(start, start + lengths[name])):
            raise StoreError(
                "this Feast serializes entity keys in a way unknown here; install feast 0.67.0"
            )
        return start, start + lengths[name]

    def _probe(self, lengths: Mapping[str, int], switched_on: str | None = None) -> bytes:
        values = []
        for name, kind in self._kinds.items():
            on = name == switched_on
            if kind == ValueType.INT64:
                values.append(Value(int64_val=-1 if on else 0))
            else:
                values.append(Value(string_val=("\x7f" if on else "\x00") * lengths[name]))
        return self._serialize(EntityKey(join_keys=list(self._kinds), entity_values=values))

    def _length(self, name: str, text: int) -> int:
        return _INT64_BYTES if self._kinds[name] == ValueType.INT64 else text


def _raw(column: pa.Array, kind: ValueType) -> pa.LargeBinaryArray:
    if kind == ValueType.INT64:
        numbers = column.to_numpy(zero_copy_only=False).astype("<i8", copy=False)
        return cut(numbers, np.full(len(numbers), _INT64_BYTES))
    return column.cast(BYTES)


def _distinct(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of a matrix, and which of them each row is; mostly there is one."""
    if (lengths == lengths[0]).all():
        return lengths[:1], np.zeros(len(lengths), np.int64)
    found, which = np.unique(lengths, axis=0, return_inverse=True)
    return found, which.reshape(-1)
