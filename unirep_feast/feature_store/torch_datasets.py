"""Training sets of vectors and labels for ``torch.utils.data``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from feast import FeatureStore, FeatureView
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from unirep_feast.errors import StoreError
from unirep_feast.feature_store.entity_rows import read_entity_rows
from unirep_feast.feature_store.found_vectors import view_of
from unirep_feast.feature_store.historical_reading import read_vectors, warn_of_dask
from unirep_feast.feature_store.torch_columns import MASK, tensors_of

#: Names in a batch that no label may have.
RESERVED = ("vector", "mask", "row")


class Batch(dict[str, Tensor]):
    """Rows that are a batch already, which the default collation of torch passes on."""


class UserVectorDataset(Dataset[dict[str, Tensor]]):
    """A training set: for each entity row the vector as it was known then, and labels.

    The vectors are fetched when it is made and stay in memory, 4 * n * W bytes; for more than that
    see :class:`~unirep_feast.feature_store.torch_streams.UserVectorStream`. Rows come in whole
    batches, so a ``DataLoader`` makes one tensor per column and batch::

        loader = DataLoader(
            UserVectorDataset(store, "purchases", rows, labels=["bought"]),
            batch_size=256, shuffle=True, num_workers=2, pin_memory=True,
        )
        for batch in loader:
            loss = criterion(model(batch["vector"], batch["mask"]), batch["bought"])

    It holds tensors and no store: worker processes share them, forked or spawned.

    A row is a dict of ``vector`` (W) float32, ``mask`` () bool, False where the user had no vector,
    ``row`` () int64, its place in ``entity_df``, and the labels.

    Attributes:
        columns: the same names, of all n rows.
        num_vectors: K, where the feature view tells it.
        dim: D, where the feature view tells it.
    """

    def __init__(
        self,
        store: FeatureStore,
        view: str | FeatureView,
        entity_df: pd.DataFrame | pa.Table,
        labels: Sequence[str] = (),
    ) -> None:
        """Fetch the vectors.

        Args:
            store: the feature store; not kept.
            view: a feature view made by ``representation(...)``, or its name.
            entity_df: as for ``user_vectors``.
            labels: further columns of it: numbers, booleans, timestamps (as microseconds) or lists
                of numbers of one length, without nulls.

        Raises:
            StoreError: as for ``user_vectors``, or a label is missing, null or no number.
        """
        columns = label_tensors(entity_df, labels)
        view = view_of(store, view)
        rows = read_entity_rows(entity_df, view)
        warn_of_dask(store)
        found = read_vectors(store, view, rows)
        self.num_vectors, self.dim = found.num_vectors, found.dim
        self.columns: dict[str, Tensor] = {
            "vector": found.vectors,
            "mask": found.mask,
            "row": torch.arange(len(rows)),
            **columns,
        }

    def __len__(self) -> int:
        return len(self.columns["mask"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one row."""
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """Return rows as the one batch they will be, which is how a DataLoader asks."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return [Batch({name: column[chosen] for name, column in self.columns.items()})]


def label_tensors(entity_df: pd.DataFrame | pa.Table, labels: Sequence[str]) -> dict[str, Tensor]:
    """Check label columns and bring them to tensors.

    Raises:
        StoreError: one is missing, null, no number, or has a name that a batch needs.
    """
    taken = [name for name in labels if name in RESERVED]
    if taken:
        raise StoreError(
            f"label {', '.join(map(repr, taken))}: a batch has {', '.join(RESERVED)} of its own; "
            "rename the column"
        )
    is_table = isinstance(entity_df, pa.Table)
    names = list(entity_df.column_names if is_table else map(str, entity_df.columns))
    missing = [name for name in labels if name not in names]
    if missing:
        raise StoreError(
            f"entity_df: no label {', '.join(map(repr, missing))}; found {', '.join(names)}"
        )
    chosen = list(labels)
    table = entity_df.select(chosen) if is_table else None
    if table is None:
        table = pa.Table.from_pandas(entity_df[chosen], preserve_index=False)
    tensors = tensors_of(table, chosen) if chosen else {}
    for name in chosen:
        absent = int((~tensors.pop(name + MASK)).sum())
        if absent:
            raise StoreError(
                f"entity_df: {absent:,} rows without label {name!r}; drop them, or fill them with "
                "a number that your loss ignores"
            )
    return tensors


def _as_it_is(batch: list[Batch], *, collate_fn_map: Any = None) -> dict[str, Tensor]:
    return dict(batch[0])


# How torch asks to be told of a type that collates in its own way.
default_collate_fn_map[Batch] = _as_it_is
