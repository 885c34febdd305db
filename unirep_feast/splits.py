"""Train, validation and test shares by a hash of the user id: the same on every machine."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FNV_PRIME = np.uint64(0x00000100000001B3)


def hash_ids(ids: pa.Array, seed: int = 0) -> np.ndarray:
    """Hash ids to (n,) uint64, evenly spread and stable across machines and versions.

    Args:
        ids: int64 or string.
        seed: another seed gives another hash.
    """
    if pa.types.is_integer(ids.type):
        value = ids.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
    else:
        value = _string_sums(ids)
    with np.errstate(over="ignore"):
        return _mix(value + _mix(np.array([seed], np.uint64)))


def shares(ids: pa.Array, validation: float, test: float, seed: int = 0) -> np.ndarray:
    """Put ids into shares: (n,) int8, 0 train, 1 validation, 2 test.

    Args:
        ids: user ids; equal ids get the same share.
        validation: share of the ids, in [0, 1).
        test: share of the ids, in [0, 1).
        seed: another seed gives another split.
    """
    point = hash_ids(ids, seed) / np.float64(2**64)  # (n,) in [0, 1)
    return np.where(point < test, 2, np.where(point < test + validation, 1, 0)).astype(np.int8)


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        value = value + _GOLDEN
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed


def _string_sums(ids: pa.Array) -> np.ndarray:
    """Sum byte × prime^position over each string: a polynomial hash without a loop over rows."""
    ids = pa.concat_arrays([ids]).cast(pa.large_binary())
    offsets = np.frombuffer(ids.buffers()[1], np.int64)[: len(ids) + 1]
    data = np.frombuffer(ids.buffers()[2] or b"", np.uint8)[: offsets[-1]]
    lengths = np.diff(offsets)
    position = np.arange(data.size) - np.repeat(offsets[:-1], lengths)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(int(lengths.max(initial=0)) + 1, _FNV_PRIME, np.uint64))
        terms = (data.astype(np.uint64) + np.uint64(1)) * powers[position]
        sums = np.concatenate(([np.uint64(0)], np.cumsum(terms, dtype=np.uint64)))
        totals: np.ndarray = sums[offsets[1:]] - sums[offsets[:-1]]
        return totals + lengths.astype(np.uint64)
