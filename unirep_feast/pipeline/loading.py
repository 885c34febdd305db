"""Spec to sequences, and spec to catalog: what every command begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unirep_feast.catalog import Catalog, Run, default_catalog_url
from unirep_feast.catalogue import read_items
from unirep_feast.checkpoint import Checkpoint
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import CatalogError, CheckpointError, SpecError
from unirep_feast.events import Events, now, read_events
from unirep_feast.instants import format_instant
from unirep_feast.items import Vocabulary
from unirep_feast.packing import PackedEvents, pack
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences
from unirep_feast.spec_file import parse_spec, read_yaml
from unirep_feast.trio import part_problems

#: Takes one line for people.
Notify = Callable[[str], None]

#: Reads the events of a spec strictly before a time (microseconds; None: all of them). Reading from
#: a Feast source is handed in from above, because this package does not know Feast.
ReadEvents = Callable[[RepresentationSpec, int | None], Events]


def read_spec(path: str | Path, overrides: Sequence[str] = ()) -> RepresentationSpec:
    """Read a spec and report its problems and those of its parts' settings together.

    Raises:
        SpecError: lists every problem.
    """
    raw = read_yaml(path, overrides)
    try:
        return parse_spec(raw, f"spec {path}")
    except SpecError as error:
        more = part_problems(raw, load_plugins())
        raise SpecError(f"spec {path}", error.problems + more) from None


def open_catalog(spec: RepresentationSpec, create: bool = True) -> Catalog:
    """Open the catalog a spec names, or the default one beside its storage."""
    url = spec.catalog or default_catalog_url(spec.resolve(spec.storage))
    return Catalog(url, create=create)


def serving_run(catalog: Catalog, spec: RepresentationSpec, run: str | None) -> Run:
    """Return the run to encode with: the one named, else the promoted one.

    Raises:
        CatalogError: there is none; names the command to run.
    """
    if run is not None:
        found = catalog.find_run(run)
        if found.representation != spec.name:
            raise CatalogError(
                f"run {found.id} is of representation {found.representation!r}, the spec is "
                f"{spec.name!r}; see `unirep runs list --representation {spec.name}`"
            )
        return found
    promoted = catalog.promoted(spec.name)
    if promoted is None:
        runs = catalog.list_runs(spec.name)
        advice = (
            f"`unirep runs promote {runs[0].id}`"
            if runs and runs[0].status == "finished"
            else "`unirep train SPEC`"
        )
        raise CatalogError(f"no run of {spec.name!r} is promoted; run {advice} first")
    return promoted


def checkpoint_folder(spec: RepresentationSpec, run: str, path: str) -> Path:
    """Where a recorded checkpoint lies: beside the spec's storage, even if that was moved."""
    here = spec.home / "runs" / run / "checkpoints" / Path(path).name
    return here.resolve() if here.exists() else Path(path)


def refuse_other_parts(
    checkpoint: Checkpoint, identity: Mapping[str, Mapping[str, str]], roles: Sequence[str]
) -> None:
    """Refuse a checkpoint that another plugin, or another version of it, made.

    Args:
        checkpoint: what is about to be used.
        identity: of the parts that the spec gives.
        roles: which parts must be the same.

    Raises:
        CheckpointError: they differ; says in what.
    """
    for role in roles:
        found, wanted = checkpoint.manifest.identity.get(role, {}), identity.get(role, {})
        if found == wanted:
            continue
        differs = " and ".join(key for key in wanted or found if found.get(key) != wanted.get(key))
        raise CheckpointError(
            f"checkpoint {checkpoint.folder} is of {role} {_whose(found)}, the spec gives "
            f"{_whose(wanted)} (another {differs}); install that version, or train anew"
        )


def _whose(part: Mapping[str, str]) -> str:
    if not part:
        return "none"
    return f"{part.get('name')!r} from {part.get('distribution')} {part.get('version')}"


def read_log(
    spec: RepresentationSpec,
    before: int | None,
    notify: Notify,
    read: ReadEvents = read_events,
) -> PackedEvents:
    """Read and sort the events of a spec, and say what was read and dropped.

    Args:
        spec: names a parquet path or a Feast source.
        before: read only events strictly before it (microseconds).
        notify: gets one line.
        read: ``feature_store.source_events.read_feast_events`` where a Feast source is named.

    Raises:
        SpecError: ``before`` lies in the future, or ``read`` cannot read what the spec names.
    """
    packed = pack(_read(spec, before, read), spec.events.duplicates)
    notify(packed.report.line())
    return packed


def _read(spec: RepresentationSpec, before: int | None, read: ReadEvents) -> Events:
    if before is not None and before > now():
        raise SpecError(
            f"spec {spec.name}",
            [
                f"{format_instant(before)} lies in the future: events before it may still come; "
                "wanted a time that has passed"
            ],
        )
    if spec.events.feast is not None and read is read_events:
        raise SpecError(
            f"spec {spec.name}",
            [
                "events.feast names a Feast source, which is not read by default here; hand in "
                "read=unirep_feast.feature_store.source_events.read_feast_events"
            ],
        )
    return read(spec, before)


def sequences_of(
    spec: RepresentationSpec, packed: PackedEvents, vocabulary: Vocabulary
) -> Sequences:
    """Code packed events and bind what is known of items."""
    return Sequences.from_packed(packed, vocabulary, read_items(spec))
