"""A feature repo of one representation, made on the spot for whoever has a spec and no repo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from feast import FeatureStore, RepoConfig

from unirep_feast.config import RepresentationSpec
from unirep_feast.events import TIME_TYPE
from unirep_feast.feature_store.historical_reading import user_vectors
from unirep_feast.feature_store.views import representation
from unirep_feast.files import atomic_path
from unirep_feast.instants import MICROSECONDS_PER_DAY


@dataclass(frozen=True)
class PrivateRepo:
    """Reads vectors of one representation as any model would: through Feast, as of a time.

    Attributes:
        spec: the representation; its promoted run is what the view reads.
        folder: of registry and online store.
    """

    spec: RepresentationSpec
    folder: Path

    @cached_property
    def store(self) -> FeatureStore:
        """A feature store that knows the representation's entity, source and view."""
        folder = self.folder.resolve()
        path = folder / f"{self.spec.name}.yaml"
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.spec.model_dump(mode="json")), "utf-8")
        made = representation(path)
        store = FeatureStore(
            config=RepoConfig(
                project="unirep",
                provider="local",
                registry=str(folder / "registry.db"),
                offline_store={"type": "duckdb"},
                online_store={"type": "sqlite", "path": str(folder / "online.db")},
                entity_key_serialization_version=3,
                repo_path=folder,
            )
        )
        store.apply(list(made.users))
        return store

    def entity_rows(self, ids: pa.Array, times: np.ndarray) -> pa.Table:
        """What Feast calls an entity dataframe: who, and as of when.

        A snapshot as of T is what was known at T, so a row's time is T itself.
        """
        when = pa.array(times).cast(pa.timestamp("us")).cast(TIME_TYPE)
        return pa.table({self.spec.view.join_key: ids, "event_timestamp": when})

    def fetch(self, ids: pa.Array, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fetch vectors as they were known.

        ``user_vectors`` answers what ``get_historical_features`` would, from the same files.

        Args:
            ids: (n,) user ids.
            times: (n,) int64 microseconds.

        Returns:
            (n, K · D) float32, and (n,) bool: False where the user had no vector.
        """
        found = user_vectors(self.store, self.spec.name, self.entity_rows(ids, times))
        return found.vectors.numpy(), found.mask.numpy()

    def fetch_published(self, ids: pa.Array, times: np.ndarray) -> np.ndarray:
        """Fetch what the view publishes beside the vectors, by ``get_historical_features``.

        Args:
            ids: (n,) user ids.
            times: (n,) int64 microseconds.

        Returns:
            (n, 2) float32: log(1 + events before the time), log(1 + days since the latest of them);
            zeros where the user had no vector.
        """
        key = self.spec.view.join_key
        rows = self.entity_rows(ids, times).group_by([key, "event_timestamp"]).aggregate([])
        names = [f"{self.spec.name}:{name}" for name in ("history_length", "last_event")]
        # Feast wants nanoseconds of pandas, and promises no order: joined back by who and when.
        frame = rows.to_pandas(timestamp_as_object=False)
        found = self.store.get_historical_features(frame, names).to_df()
        found["when"] = _microseconds(found["event_timestamp"])
        asked = pd.DataFrame({key: ids.to_pandas(), "when": times})
        met = asked.merge(found, how="left", on=[key, "when"])
        days = (times - _microseconds(met["last_event"])) / MICROSECONDS_PER_DAY
        both = np.column_stack((met["history_length"].to_numpy(float), days))
        known = met["last_event"].notna().to_numpy()
        return np.asarray(np.log1p(np.where(known[:, None], both, 0)), np.float32)


def _microseconds(times: pd.Series) -> np.ndarray:
    """Instants as (n,) int64 microseconds; those that are missing as some number."""
    utc = pd.to_datetime(times, utc=True).dt.tz_localize(None)
    return np.asarray(utc.to_numpy("datetime64[us]").astype(np.int64))
