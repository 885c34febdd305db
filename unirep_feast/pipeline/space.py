"""The vectors of one snapshot as a space to search: through its index, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unirep_feast.catalog import Catalog, Snapshot, VectorIndex
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import SearchError, SnapshotError, one_line
from unirep_feast.files import locked, sha256
from unirep_feast.index import Found, Index, Metric, build_index, exact_search
from unirep_feast.index.exact import Merge, unit
from unirep_feast.instants import format_instant
from unirep_feast.pipeline.loading import Notify
from unirep_feast.snapshot import Kind, read_vectors, snapshot_path

#: With fewer vectors, comparing with all of them takes no longer than walking through trees.
EXACT_BELOW = 20_000

#: Called with (done, total, what is being done).
Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class How:
    """How a space is searched.

    Attributes:
        metric: how two vectors are compared.
        exact: compare with every vector; False searches through an index; None takes the index
            where there are many vectors and it reaches the recall.
        recall: share of the exact top 100 that the index must find on a sample when it is built.
    """

    metric: Metric = "cosine"
    exact: bool | None = None
    recall: float = 0.95


def index_path(home: Path, run: str, as_of: int, kind: Kind, metric: Metric) -> Path:
    """Where the index of a snapshot lies: in ``<home>/indexes``, as the snapshot in its folder."""
    snapshot = snapshot_path(home, run, as_of, kind)
    below = snapshot.relative_to(home / "snapshots").with_suffix(f".{metric}.ann")
    return home / "indexes" / below


class Space:
    """One snapshot of one run; vectors of another run are not comparable and never get in.

    Args:
        spec: the representation.
        catalog: where the snapshot is recorded, and the index will be.
        snapshot: whose vectors.
        kind: what its rows are.
        how: how to search.
        questions: gives (B, Q, D) vectors of the kind that will be asked, to measure the index
            with; None where they are the snapshot's own.
        advance: called while an index is built.
        notify: called with lines for people.

    Raises:
        SnapshotError: the file is gone or was changed.
        SearchError: the index cannot be built.
    """

    def __init__(
        self,
        spec: RepresentationSpec,
        catalog: Catalog,
        snapshot: Snapshot,
        kind: Kind,
        how: How,
        questions: Callable[[], np.ndarray] | None = None,
        advance: Advance = lambda done, total, what: None,
        notify: Notify = lambda line: None,
    ) -> None:
        self.snapshot, self.kind, self.how = snapshot, kind, how
        self._catalog, self._notify = catalog, notify
        self._path = snapshot_path(spec.home, snapshot.run_id, snapshot.as_of, kind)
        self._key = spec.view.item_key if kind == "item" else spec.view.join_key
        self._check()
        self._index: Index | None = None
        #: The index's recall when it was built; None where search is exact.
        self.recall: float | None = None
        if how.exact is False or (how.exact is None and len(self) * self.k >= EXACT_BELOW):
            path = index_path(spec.home, snapshot.run_id, snapshot.as_of, kind, how.metric)
            self._open_index(path, questions, advance)

    def __len__(self) -> int:
        """Return the number of owners."""
        return self.snapshot.rows

    @property
    def k(self) -> int:
        """K, vectors per owner."""
        return self.snapshot.num_vectors

    @cached_property
    def ids(self) -> pa.Array:
        """(n,) ids in file order."""
        try:
            return pq.read_table(self._path, columns=[self._key])[self._key].combine_chunks()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise SnapshotError(f"{self._path} cannot be read: {one_line(error)}") from None

    @cached_property
    def vectors(self) -> np.ndarray:
        """(n, K, D) float32, read whole."""
        _, flat = read_vectors(self._path, self._key)
        return flat.reshape(len(self), self.k, self.snapshot.dim)

    def locate(self, wanted: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Find owners by the text of their ids: rows of those that are there, texts of the others.

        Raises:
            SearchError: ids are integers, and a text is none.
        """
        ids: Sequence[str | int] = wanted
        if pa.types.is_integer(self.ids.type):
            try:
                numbers = [int(text) for text in wanted]
            except ValueError as error:
                text = str(error).rpartition(": ")[2]
                raise SearchError(
                    f"{text} is no id: {self._key} of {self._path.name} holds integers"
                ) from None
            if any(not -(2**63) <= number < 2**63 for number in numbers):
                raise SearchError(f"an id of {self._key} is beyond 64 bits; give one of its ids")
            ids = numbers
        places = pc.index_in(pa.array(ids, self.ids.type), value_set=self.ids)
        known = places.is_valid().to_numpy(zero_copy_only=False)
        missing = [text for text, there in zip(wanted, known, strict=True) if not there]
        return places.drop_null().to_numpy().astype(np.int64), missing

    def vectors_of(self, rows: np.ndarray) -> np.ndarray:
        """(m, K, D) float32 vectors of some owners."""
        return self.vectors[rows] if self._index is None else self._index.vectors(rows)

    def search(self, questions: np.ndarray, top: int, merge: Merge = "max") -> Found:
        """Find the owners with the highest score over several questions.

        The score for one question is the highest over all pairs of vectors. Through an index, the
        highest over questions is one search for all their vectors, and the mean over questions of
        one vector each is a search for their mean vector. The mean over questions is searched
        exactly where questions or owners have several vectors, or by distance: no single vector
        stands for it.

        Args:
            questions: (B, Q, D) float32.
            top: M.
            merge: how an owner's scores for the questions become one.
        """
        index, metric = self._index, self.how.metric
        if index is None or (
            merge == "mean" and len(questions) > 1 and not self._linear(questions)
        ):
            return exact_search(self.vectors, questions, top, metric, merge)[0]
        if merge == "max" or len(questions) == 1:
            return index.search(questions.reshape(-1, questions.shape[2]), top)
        mean = (unit(questions) if metric == "cosine" else questions).mean(axis=(0, 1))
        found = index.search(mean[None], top)
        if metric == "cosine":  # the mean of cosines is the product with the mean, however short
            return Found(found.rows, found.scores * np.float32(np.linalg.norm(mean)))
        return found

    def _linear(self, questions: np.ndarray) -> bool:
        return self.k == 1 and questions.shape[1] == 1 and self.how.metric != "l2"

    def _check(self) -> None:
        if not self._path.exists():
            when = format_instant(self.snapshot.as_of)
            raise SnapshotError(
                f"{self._path} is recorded and not there; `unirep encode SPEC --as-of {when}` "
                "makes it again"
            )
        if sha256(self._path) != self.snapshot.checksum:
            raise SnapshotError(
                f"{self._path} was changed since it was written (its checksum differs); remove it, "
                "and encode again"
            )

    # -- the index -----------------------------------------------------------------------------

    def _open_index(
        self, path: Path, questions: Callable[[], np.ndarray] | None, advance: Advance
    ) -> None:
        row = self._recorded(path)
        if row is None:
            try:
                with locked(path):  # whoever comes second finds it built
                    row = self._recorded(path) or self._build(path, questions, advance)
            except OSError as error:
                raise SearchError(
                    f"{path.parent} cannot be written: {error.strerror or error}; mend the folder, "
                    "or search with --exact"
                ) from None
        if self.how.exact is None and row.recall < self.how.recall:
            self._notify(
                f"the index finds {row.recall:.3f} of the top {row.recall_at}, "
                f"{self.how.recall:g} is wanted: searching exactly"
            )
            return
        self.recall = row.recall
        self._index = Index.open(
            path, len(self), self.k, self.snapshot.dim, self.how.metric, row.search_k
        )

    def _recorded(self, path: Path) -> VectorIndex | None:
        """The index that was built before, if it is as it was then and meant for this recall."""
        row = self._catalog.index(self.snapshot.id, self.how.metric)
        if row is None:
            return None
        if row.recall < self.how.recall and row.recall_wanted < self.how.recall:
            return None
        if not path.exists() or sha256(path) != row.checksum:
            self._notify(f"index {path} is gone or was changed; it is built again")
            return None
        return row

    def _build(
        self, path: Path, questions: Callable[[], np.ndarray] | None, advance: Advance
    ) -> VectorIndex:
        built = build_index(
            path,
            self.vectors,
            self.how.metric,
            None if questions is None else questions(),
            self.how.recall,
            advance=advance,
        )
        tuning = built.tuning
        self._notify(f"index of {len(self):,} {self.kind}s built: {tuning.line()}")
        return self._catalog.add_index(
            self.snapshot.id,
            metric=self.how.metric,
            path=str(path.resolve()),
            checksum=built.checksum,
            size=built.size,
            n_trees=tuning.n_trees,
            search_k=tuning.search_k,
            recall=tuning.recall,
            recall_wanted=tuning.wanted,
            recall_at=tuning.top,
        )
