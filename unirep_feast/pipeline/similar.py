"""`unirep similar`: who is like these users, and which items suit this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unirep_feast.catalog import Catalog, Run, Snapshot
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import SearchError
from unirep_feast.events import read_events
from unirep_feast.index import Found, Metric, without
from unirep_feast.index.exact import Merge
from unirep_feast.instants import format_instant
from unirep_feast.pipeline.histories import latest_titles, read_histories, titles_of
from unirep_feast.pipeline.loading import Notify, ReadEvents, open_catalog, serving_run
from unirep_feast.pipeline.publishing import entity_of
from unirep_feast.pipeline.restoring import final_checkpoint
from unirep_feast.pipeline.space import Advance, How, Space
from unirep_feast.snapshot import Kind

_NAMED = 5  # ids that a message lists


@dataclass(frozen=True)
class Hit:
    """One owner that was found.

    Attributes:
        id: of the user or item.
        score: falling from hit to hit.
        title: of an item, where the item table knows it.
        had: of an item: the user has an event with it before T.
        latest: of a user: titles (else ids) of the latest items before T, where asked for.
    """

    id: int | str
    score: float
    title: str | None = None
    had: bool | None = None
    latest: tuple[str, ...] = ()


@dataclass(frozen=True)
class Similar:
    """What was found, and where.

    Attributes:
        run: whose vectors.
        as_of: T of the snapshot, microseconds.
        metric: how vectors were compared.
        recall: of the index that was searched; None where search was exact.
        seeds: users that the question was made of.
        hits: by falling score.
    """

    run: str
    as_of: int
    metric: Metric
    recall: float | None
    seeds: int
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Where:
    """Which vectors are searched, and how.

    Attributes:
        as_of: T of the snapshot, microseconds; None takes the newest.
        run: id or unique prefix; None takes the promoted run.
        how: metric, exact or index; None: by the spec's ``view.metric``, whichever is quicker.
        advance: called while an index is built.
        notify: called with lines for people.
        read: reads the events of a Feast source.
    """

    as_of: int | None = None
    run: str | None = None
    how: How | None = None
    advance: Advance = field(default=lambda done, total, what: None)
    notify: Notify = field(default=lambda line: None)
    read: ReadEvents = field(default=read_events)


def similar_users(
    spec: RepresentationSpec,
    users: Sequence[str],
    top: int = 10,
    merge: Merge = "max",
    latest: int = 0,
    where: Where | None = None,
) -> Similar:
    """Find the users nearest to one user, or to a list of seeds; the seeds are not among them.

    Args:
        spec: the representation.
        users: ids as text. Of several, those without a vector are left out and named.
        top: M.
        merge: a user's score is the highest, or the mean, of those for the seeds.
        latest: how many of each user's latest items to tell.
        where: run, time, metric.

    Raises:
        UnirepError: no run, snapshot or vector; in one line that names the command.
    """
    where = where or Where()
    question = _Question(spec, where)
    space = question.space("user")
    rows = question.seeds(space, users)
    found = space.search(space.vectors_of(rows), top + len(rows), merge)
    found = without(found, rows, top)
    ids = space.ids.take(pa.array(found.rows))
    lists = latest_titles(spec, ids, space.snapshot.as_of, latest, where.read) if latest else {}
    hits = [
        Hit(one, float(score), latest=lists.get(one, ()))
        for one, score in zip(ids.to_pylist(), found.scores, strict=True)
    ]
    return question.answer(space, len(rows), hits)


def similar_items(
    spec: RepresentationSpec,
    user: str,
    top: int = 10,
    new_only: bool = False,
    where: Where | None = None,
) -> Similar:
    """Find the items nearest to a user; an item's score is its best over the user's vectors.

    Args:
        spec: the representation; its encoder provides item vectors.
        user: id as text.
        top: M.
        new_only: leave out items that the user has an event with before T; else they are flagged.
        where: run, time, metric.

    Raises:
        UnirepError: no run, snapshot, vector or item vectors; in one line.
    """
    where = where or Where()
    question = _Question(spec, where)
    # Only the user's vectors are taken from there; no index of users is needed for that.
    users = question.space("user", How(question.how.metric, exact=True))
    row = question.seeds(users, [user])
    items = question.space("item", questions=users)
    as_of = users.snapshot.as_of
    history = read_histories(spec, users.ids.take(pa.array(row)), as_of, where.read)["item_id"]
    seen = _places(items.ids, history)
    found = items.search(users.vectors_of(row), top + (len(seen) if new_only else 0))
    found = without(found, seen, top) if new_only else found
    ids = items.ids.take(pa.array(found.rows))
    hits = _item_hits(spec, ids, found, np.isin(found.rows, seen))
    return question.answer(items, 1, hits)


class _Question:
    """What both questions begin with: a run, and its snapshots as of one time."""

    def __init__(self, spec: RepresentationSpec, where: Where) -> None:
        self.spec, self.where = spec, where
        self.how = where.how or How(spec.view.metric)
        self.catalog: Catalog = open_catalog(spec, create=False)
        self.run: Run = serving_run(self.catalog, spec, where.run)
        self.users = self._users()

    def space(self, kind: Kind, how: How | None = None, questions: Space | None = None) -> Space:
        """Open the users or items of the snapshot's time."""
        return Space(
            self.spec,
            self.catalog,
            self.users if kind == "user" else self._items(),
            kind,
            how or self.how,
            None if questions is None else lambda: questions.vectors,
            self.where.advance,
            self.where.notify,
        )

    def seeds(self, space: Space, users: Sequence[str]) -> np.ndarray:
        """Rows of the users; of several, those without a vector are named and left out."""
        rows, missing = space.locate(list(dict.fromkeys(users)))
        if missing:
            named = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
            text = (
                f"{'user' if len(missing) == 1 else 'users'} {named}: no vector as of "
                f"{format_instant(space.snapshot.as_of)} in run {self.run.id} "
                f"({len(space):,} users have one)"
            )
            if len(rows) == 0:
                raise SearchError(f"{text}; give a user with an event before then")
            self.where.notify(f"{text}; left out")
        if len(rows) == 0:
            raise SearchError("no user is given; name one, or a file of them with --seeds")
        return np.unique(rows)

    def answer(self, space: Space, seeds: int, hits: Sequence[Hit]) -> Similar:
        """Say where the hits come from."""
        as_of, metric = space.snapshot.as_of, self.how.metric
        return Similar(self.run.id, as_of, metric, space.recall, seeds, tuple(hits))

    def _users(self) -> Snapshot:
        entity, as_of = entity_of(self.spec, "user"), self.where.as_of
        made = [one for one in self.catalog.snapshots(self.run.id) if one.entity == entity]
        if as_of is not None:
            chosen = [one for one in made if one.as_of == as_of]
            if not chosen:
                when = format_instant(as_of)
                known = ", ".join(format_instant(one.as_of) for one in made[-_NAMED:]) or "none"
                raise SearchError(
                    f"run {self.run.id} has no snapshot as of {when}, found {known}; "
                    f"`unirep encode SPEC --as-of {when}` makes it"
                )
            return chosen[0]
        if not made:
            raise SearchError(
                f"run {self.run.id} has no snapshot yet; `unirep encode SPEC --as-of TIME` makes "
                "one"
            )
        return max(made, key=lambda one: one.as_of)

    def _items(self) -> Snapshot:
        as_of = self.users.as_of
        found = self.catalog.snapshot(self.run.id, as_of, entity_of(self.spec, "item"))
        if found is not None:
            return found
        manifest = final_checkpoint(self.catalog, self.spec, self.run).manifest
        if not manifest.provides_items:
            raise SearchError(
                f"encoder {manifest.identity['encoder']['name']!r} of run {self.run.id} provides "
                "no item vectors, so items cannot be compared with users; take an encoder that does"
            )
        advice = "" if self.spec.view.items is not False else "set view.items: auto, then "
        raise SearchError(
            f"run {self.run.id} has no item vectors as of {format_instant(as_of)}; {advice}"
            f"`unirep encode SPEC --as-of {format_instant(as_of)}` makes them"
        )


def _places(ids: pa.Array, some: pa.ChunkedArray) -> np.ndarray:
    """Rows of some ids among all; those that are not there are left out."""
    if len(some) == 0:
        return np.empty(0, np.int64)
    places = pc.index_in(pc.unique(some), value_set=ids).drop_null()
    return np.asarray(places.to_numpy(zero_copy_only=False), np.int64)


def _item_hits(spec: RepresentationSpec, ids: pa.Array, found: Found, had: np.ndarray) -> list[Hit]:
    titles = titles_of(spec, ids)
    names = [None] * len(ids) if titles is None else titles.to_pylist()
    return [
        Hit(one, float(score), title, bool(seen))
        for one, score, title, seen in zip(ids.to_pylist(), found.scores, names, had, strict=True)
    ]
