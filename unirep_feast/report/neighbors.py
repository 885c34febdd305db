"""Who is near whom, with what they did: the check that a reader can make by eye."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import SearchError
from unirep_feast.index.exact import unit
from unirep_feast.pipeline.histories import latest_titles
from unirep_feast.pipeline.loading import ReadEvents
from unirep_feast.pipeline.similar import Where, similar_items, similar_users
from unirep_feast.report.population import Population

#: Users that are shown, neighbors of each, latest items of everybody, items found for a user.
_SHOWN, _NEAR, _LATEST, _ITEMS = 3, 3, 5, 5

#: Neighbors whose group is compared.
_COMPARED = 10


def neighbors_of(
    spec: RepresentationSpec, run: str, population: Population, read: ReadEvents
) -> dict[str, Any]:
    """Show some users with those nearest to them, and how often neighbors share a group.

    The users are those of the sample with the quarter, the median and three quarters of its
    history lengths: neither the emptiest nor the fullest.

    Returns:
        ``users``: a list of ``id latest near nearest_items``, ``near`` a list of ``id score
        latest``, ``nearest_items`` of ``title score`` or None if the run has no item vectors;
        ``shared``: how often the ten nearest share a user's group, beside any two users; None
        without groups.
    """
    where = Where(as_of=population.as_of, run=run, read=read)
    order = np.argsort(population.lengths, kind="stable")
    places = order[[len(order) * (n + 1) // (_SHOWN + 1) for n in range(_SHOWN)]]
    users = [population.ids[int(place)].as_py() for place in dict.fromkeys(places.tolist())]
    asked = pa.array(users, population.ids.type)
    latest = latest_titles(spec, asked, population.as_of, _LATEST, read)
    return {
        "users": [_one(spec, user, list(latest.get(user, ())), where) for user in users],
        "shared": shared_groups(population),
    }


def _one(
    spec: RepresentationSpec, user: int | str, latest: list[str], where: Where
) -> dict[str, Any]:
    near = similar_users(spec, [str(user)], _NEAR, latest=_LATEST, where=where)
    try:
        items = similar_items(spec, str(user), _ITEMS, new_only=True, where=where).hits
    except SearchError:
        items = None  # no item vectors
    return {
        "id": user,
        "latest": latest,
        "near": [
            {"id": hit.id, "score": round(hit.score, 3), "latest": list(hit.latest)}
            for hit in near.hits
        ],
        "nearest_items": items
        and [{"title": hit.title or str(hit.id), "score": round(hit.score, 3)} for hit in items],
    }


def shared_groups(population: Population) -> dict[str, Any] | None:
    """How often a user's nearest (cosine) are of the user's group, and any two users.

    Returns:
        ``grouped_by near any``, shares; None where there are no two users with a known group.
    """
    if population.groups is None:
        return None
    known = population.groups.is_valid().to_numpy(zero_copy_only=False)
    codes = population.groups.dictionary_encode().indices.fill_null(-1).to_numpy()[known]
    some = unit(population.vectors[known])
    number = min(_COMPARED, len(some) - 1)
    if number < 1:
        return None
    cosine = some @ some.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argpartition(-cosine, number - 1, axis=1)[:, :number]
    sizes = np.bincount(codes)
    pairs = len(codes) * (len(codes) - 1)
    return {
        "grouped_by": population.grouped_by,
        "near": float((codes[nearest] == codes[:, None]).mean()),
        "any": float((sizes * (sizes - 1)).sum() / pairs),
    }
