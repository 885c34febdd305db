"""After a promotion: bring the online tables of a feature repo to the run that serves now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from feast import FeatureStore, FeatureView

from unirep_feast.errors import StoreError, UnirepError, one_line
from unirep_feast.feature_store.engine import UnirepComputeEngine
from unirep_feast.feature_store.views import NAME_TAG


def serve_promoted(
    repo: Path, representation: str, notify: Callable[[str], object] = lambda line: None
) -> list[str]:
    """Materialize the views of a representation again, as far as they had been.

    Each over the interval from its first to its last materialization, so that the promoted run
    takes over what the one before it served, and nothing is served that is newer. Views that were
    never materialized are left alone.

    Args:
        repo: folder with ``feature_store.yaml``, whose ``batch_engine`` is ours: Feast's own engine
            would let Redis keep the rows of the run before, which have the same times.
        representation: whose views.
        notify: called with lines for people.

    Returns:
        names of the views that were materialized.

    Raises:
        StoreError: the repo has no such view, has another engine, or a view failed.
    """
    try:
        store = FeatureStore(repo_path=str(repo))
        engine = store._get_provider().batch_engine
        found: list[FeatureView] = [
            view
            for view in store.list_feature_views()
            if view.tags.get(NAME_TAG) == representation and view.online
        ]
    except UnirepError:
        raise
    except Exception as error:  # of its YAML, its registry, or whatever it imports
        raise StoreError(f"feature repo {repo} cannot be opened: {one_line(error)}") from error
    if not found:
        raise StoreError(
            f"feature repo {repo}, project {store.project!r}, has no view of {representation!r} "
            "that is served online; run `feast apply` there, or name another folder"
        )
    if not isinstance(engine, UnirepComputeEngine):
        raise StoreError(
            f"feature repo {repo} has another batch_engine, which would leave vectors of the run "
            "before in the online store; set batch_engine.type: "
            "unirep_feast.feature_store.engine.UnirepComputeEngine"
        )
    done = []
    for view in found:
        intervals = view.materialization_intervals
        if not intervals:
            notify(f"{view.name} was never materialized and is left alone")
            continue
        first, last = min(start for start, _ in intervals), max(end for _, end in intervals)
        try:
            store.materialize(first, last, feature_views=[view.name])
        except UnirepError as error:
            raise StoreError(f"{error} (the run is promoted; give the command again)") from error
        except Exception as error:  # of the registry; of an engine it is one of ours
            raise StoreError(
                f"feature view {view.name!r}: {one_line(error)}; the run is promoted, give the "
                "command again"
            ) from error
        done.append(view.name)
    return done
