"""User vectors out of Feast as tensors: point-in-time for training, online for serving.

``user_vectors`` and ``online_user_vectors`` fetch, ``UserVectorDataset`` and ``UserVectorStream``
feed a ``DataLoader``, ``to_torch`` turns anyone's Feast job into tensors.
"""

from __future__ import annotations

from unirep_feast.feature_store.found_vectors import UserVectors
from unirep_feast.feature_store.historical_reading import DASK_FAULT, user_vectors
from unirep_feast.feature_store.online_reading import online_user_vectors
from unirep_feast.feature_store.torch_columns import to_torch
from unirep_feast.feature_store.torch_datasets import UserVectorDataset
from unirep_feast.feature_store.torch_streams import UserVectorStream

__all__ = [
    "DASK_FAULT",
    "UserVectorDataset",
    "UserVectorStream",
    "UserVectors",
    "online_user_vectors",
    "to_torch",
    "user_vectors",
]
