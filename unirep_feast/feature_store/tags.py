"""What the feature views of a representation carry in their tags: the spec, and what a run made."""

from __future__ import annotations

import json
from functools import lru_cache
from urllib.parse import urlsplit

from feast import FeatureView

from unirep_feast.blocks import Blocks, write_blocks
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import StoreError
from unirep_feast.snapshot import KINDS, Kind
from unirep_feast.spec_file import parse_spec

#: Tags of a feature view of ours.
NAME_TAG = "unirep.representation"
KIND_TAG = "unirep.kind"
SPEC_TAG = "unirep.spec"
HASH_TAG = "unirep.spec_hash"
RUN_TAG = "unirep.run"
VECTORS_TAG = "unirep.vectors"
DIM_TAG = "unirep.dim"
BLOCKS_TAG = "unirep.blocks"


def make_tags(
    spec: RepresentationSpec,
    kind: Kind,
    run: str | None,
    vectors: int | None,
    dim: int | None,
    blocks: Blocks | None = None,
) -> dict[str, str]:
    """Tags of a view.

    Args:
        spec: travels whole, so that an engine on another machine needs nothing else.
        kind: what a row of the view is about.
        run: the promoted run, if there is one.
        vectors: how many vectors it makes per row of the view.
        dim: of how many numbers each.
        blocks: which of the numbers are whose, where they are of several pieces.
    """
    text = write_blocks(blocks) if blocks else None
    known = {RUN_TAG: run, VECTORS_TAG: vectors, DIM_TAG: dim, BLOCKS_TAG: text}
    return {
        **spec.view.tags,
        NAME_TAG: spec.name,
        KIND_TAG: kind,
        SPEC_TAG: json.dumps(_public(spec).model_dump(mode="json"), sort_keys=True),
        HASH_TAG: spec.fingerprint(),
        **{key: str(value) for key, value in known.items() if value is not None},
    }


def spec_of(view: FeatureView) -> RepresentationSpec:
    """Read the spec that a feature view of ours carries.

    Raises:
        StoreError: the view carries none.
        SpecError: it was written by another version and does not parse.
    """
    text = view.tags.get(SPEC_TAG)
    if text is None:
        raise StoreError(
            f"feature view {view.name!r} has no tag {SPEC_TAG!r}; it was not made by "
            "representation(...); name one that was"
        )
    return _parsed(text, view.name)


def kind_of(view: FeatureView) -> Kind:
    """Tell what a row of a feature view of ours is about; without a tag it is a user.

    Raises:
        StoreError: the tag says something unknown.
    """
    found = view.tags.get(KIND_TAG, "user")
    for kind in KINDS:
        if kind == found:
            return kind
    raise StoreError(
        f"feature view {view.name!r}: tag {KIND_TAG} is {found!r}, wanted {', '.join(KINDS)}; run "
        "`feast apply` with the unirep-feast that is installed here"
    )


@lru_cache(maxsize=64)
def _parsed(text: str, view: str) -> RepresentationSpec:
    return parse_spec(json.loads(text), f"in the tags of feature view {view!r}")


def _public(spec: RepresentationSpec) -> RepresentationSpec:
    """Leave the catalog's URL out where it holds a password: a registry is read by many."""
    if spec.catalog is None or urlsplit(spec.catalog).password is None:
        return spec
    return spec.model_copy(update={"catalog": None})
