"""One view of ours from events to the stores: encode, write offline, write online, record.

The order is what makes it safe to kill. A snapshot appears whole or not at all; the online store
never goes back to an older one; the catalog, and then Feast's registry, hear of it last. Whatever
was not finished is done again by the next run, with the same result.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from feast import FeatureView, FileSource, RepoConfig
from feast.infra.common.materialization_job import MaterializationTask

from unirep_feast.checkpoint import Manifest
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import CatalogError, LeakageError, StoreError
from unirep_feast.events import read_events
from unirep_feast.feature_store.offline_writer import write_offline
from unirep_feast.feature_store.online_serving import OnlineServing
from unirep_feast.feature_store.source_events import read_feast_events
from unirep_feast.feature_store.view_checks import check_view
from unirep_feast.feature_store.views import kind_of, snapshot_glob, spec_of
from unirep_feast.instants import format_instant
from unirep_feast.pipeline import encode
from unirep_feast.pipeline.loading import open_catalog, serving_run
from unirep_feast.pipeline.publishing import entity_of, published_kinds
from unirep_feast.pipeline.restoring import final_checkpoint
from unirep_feast.progress import bar
from unirep_feast.snapshot import Kind, snapshot_path

if TYPE_CHECKING:
    from unirep_feast.feature_store.engine import UnirepComputeEngineConfig

_logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_declared(view: FeatureView, catalog_url: str | None) -> None:
    """Compare a view with its promoted run, where there is one; works before any training.

    Raises:
        StoreError: they do not fit.
    """
    spec = _spec(view, catalog_url)
    try:
        catalog = open_catalog(spec, create=False)
        promoted = catalog.promoted(spec.name)
        manifest = None if promoted is None else final_checkpoint(catalog, spec, promoted).manifest
    except CatalogError as error:
        # Before the first training there is none, and `feast apply` comes first.
        _logger.info("feature view %s is not compared with a run: %s", view.name, error)
        return
    if manifest is not None:
        _check(view, spec, manifest)


def _check(view: FeatureView, spec: RepresentationSpec, manifest: Manifest) -> None:
    kind = kind_of(view)
    if kind not in published_kinds(spec, manifest):
        raise StoreError(
            f"feature view {view.name!r} shows {kind}s, of which run {manifest.run} publishes no "
            "vectors; see view.items and view.per_interest in the spec"
        )
    check_view(view, manifest)


def _spec(view: FeatureView, catalog_url: str | None) -> RepresentationSpec:
    spec = spec_of(view)
    return spec if catalog_url is None else spec.model_copy(update={"catalog": catalog_url})


@dataclass(frozen=True)
class Materializer:
    """Materializes views of ours.

    Attributes:
        config: of the repo.
        offline_store: its offline store.
        online_store: its online store.
        options: of the engine.
    """

    config: RepoConfig
    offline_store: Any
    online_store: Any
    options: UnirepComputeEngineConfig

    def run(self, task: MaterializationTask) -> None:
        """Encode a view as of the end of an interval and write it to its stores.

        Online go the rows that Feast itself would take: of every key the latest within the
        interval, among the snapshots of the promoted run.

        Args:
            task: the view and the interval, both ends included.

        Raises:
            UnirepError: in one line; neither the catalog nor Feast records anything.
        """
        view: FeatureView = task.feature_view
        started = datetime.now(UTC)
        start, as_of = _microseconds(task.start_time), _microseconds(task.end_time)
        if start > as_of:
            raise StoreError(
                f"feature view {view.name!r}: the interval begins at {format_instant(start)} and "
                f"ends before, at {format_instant(as_of)}; give both with `feast materialize START "
                "END` (materialize-incremental goes on from the last interval, or from a year ago)"
            )
        spec, kind = _spec(view, self.options.catalog), kind_of(view)
        catalog = open_catalog(spec, create=False)
        run = serving_run(catalog, spec, None)
        manifest = final_checkpoint(catalog, spec, run).manifest
        _check(view, spec, manifest)
        self._refuse_leakage(view, manifest, as_of)
        with bar(f"{view.name}: encoding as of {format_instant(as_of)}") as advance:
            encode(
                spec,
                as_of,
                run=run.id,
                allow_model_leakage=self.options.allow_model_leakage,
                progress=lambda done, total: advance(done, total, "users"),
                notify=_notify,
                read=read_events if spec.events.feast is None else read_feast_events,
                incremental=self.options.incremental,
            )
        path = snapshot_path(spec.home, run.id, as_of, kind)
        snapshot = catalog.snapshot(run.id, as_of, entity_of(spec, kind))
        if snapshot is None:
            raise CatalogError(f"the snapshot {path} was struck off; materialize again")
        if not self._is_snapshot_folder(view, spec, kind):
            write_offline(self.config, self.offline_store, view, path, as_of)
        if view.online:
            serving = OnlineServing(self.config, self.online_store, view, spec, kind, catalog, run)
            serving.write(snapshot, start, started)

    def _refuse_leakage(self, view: FeatureView, manifest: Manifest, as_of: int) -> None:
        if as_of < manifest.trained_until and not self.options.allow_model_leakage:
            raise LeakageError(
                f"feature view {view.name!r}: run {manifest.run} was trained on events up to "
                f"{format_instant(manifest.trained_until)}, vectors as of {format_instant(as_of)} "
                "would carry that future; end the interval later, promote a run that was trained "
                "until then, or set batch_engine.allow_model_leakage: true (it is recorded)"
            )

    @staticmethod
    def _is_snapshot_folder(view: FeatureView, spec: RepresentationSpec, kind: Kind) -> bool:
        """Whether the source is the folder that snapshots are made in: nothing is left to write."""
        source = view.batch_source
        return isinstance(source, FileSource) and source.path == snapshot_glob(spec, kind)


def _notify(line: str) -> None:
    level = logging.WARNING if line.startswith("warning: ") else logging.INFO
    _logger.log(level, "%s", line.removeprefix("warning: "))


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
