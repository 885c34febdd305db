"""A run's encoder back from its checkpoint, with the events to encode."""

from __future__ import annotations

from torch import nn

from unirep_feast.catalog import Catalog, Run
from unirep_feast.checkpoint import Checkpoint, open_checkpoint
from unirep_feast.config import RepresentationSpec
from unirep_feast.errors import CatalogError
from unirep_feast.events import read_events
from unirep_feast.inference import Inference
from unirep_feast.pipeline.loading import (
    Notify,
    ReadEvents,
    checkpoint_folder,
    read_log,
    refuse_other_parts,
    sequences_of,
)
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences
from unirep_feast.spec_file import parse_spec
from unirep_feast.trio import build_encoder, choose


def final_checkpoint(catalog: Catalog, spec: RepresentationSpec, run: Run) -> Checkpoint:
    """Open the best checkpoint of a finished run.

    Raises:
        CatalogError: the run has not finished.
    """
    best = catalog.best_checkpoint(run.id)
    if best is None:
        raise CatalogError(
            f"run {run.id} is {run.status} and has no final checkpoint; finish it with "
            "`unirep train SPEC --resume`"
        )
    return open_checkpoint(checkpoint_folder(spec, run.id, best.path), best.checksum)


def load_encoder(
    spec: RepresentationSpec,
    checkpoint: Checkpoint,
    as_of: int,
    notify: Notify,
    read: ReadEvents = read_events,
) -> tuple[Inference, Sequences]:
    """Rebuild a run's encoder and read the events before a time with its vocabulary.

    Raises:
        CheckpointError: the checkpoint was made by another plugin than the spec names, or by
            another version of it.
    """
    choice = choose(spec, load_plugins())
    refuse_other_parts(checkpoint, choice.identity(), ["encoder"])
    # The settings the weights were trained with decide, whatever the spec says by now.
    trained = parse_spec(checkpoint.manifest.spec, f"checkpoint {checkpoint.folder}")
    if trained.part("encoder") != spec.part("encoder"):
        notify(f"encoder settings of run {checkpoint.manifest.run} are used, not the spec's")
    choice = choose(trained, load_plugins())
    vocabulary = checkpoint.vocabulary()
    sequences = sequences_of(spec, read_log(spec, as_of, notify, read), vocabulary)
    encoder = build_encoder(choice, vocabulary, sequences.items, checkpoint.tensors("prepared"))
    assert isinstance(encoder, nn.Module)  # noqa: S101
    checkpoint.load_into(encoder, "encoder")
    return Inference(encoder, spec.encode, choice.parts["encoder"].part), sequences
