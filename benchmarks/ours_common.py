"""What our training and encoding runners share: ML-1M packed, and a trio built on it."""

from __future__ import annotations

from typing import Any

import measuring

from unirep_feast.catalogue import read_items
from unirep_feast.config import RepresentationSpec
from unirep_feast.events import read_events
from unirep_feast.packing import pack
from unirep_feast.plugins import load_plugins
from unirep_feast.sequences import Sequences, fit_vocabulary
from unirep_feast.spec_file import parse_spec
from unirep_feast.trio import Choice, choose


def ml1m(
    plugin: str = "clue", titles: bool = False, **sections: Any
) -> tuple[RepresentationSpec, Choice, Sequences]:
    """A spec on ML-1M with the given sections, its parts, and the packed events."""
    folder = measuring.data_folder() / "ml-1m"
    if titles:
        sections["items"] = {"path": str(folder / "items.parquet")}
    spec = parse_spec(
        {
            "name": "bench",
            "plugin": plugin,
            "events": {"path": str(folder / "events.parquet")},
            **sections,
        },
        "benchmark",
    )
    packed = pack(read_events(spec))
    vocabulary = fit_vocabulary(packed, until=int(packed.times.max()) + 1)
    sequences = Sequences.from_packed(packed, vocabulary, read_items(spec))
    return spec, choose(spec, load_plugins()), sequences
