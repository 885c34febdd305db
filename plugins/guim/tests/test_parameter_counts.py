"""Table 3, component by component: sums can agree by accident."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unirep_feast_guim.config import ObjectiveSettings
from unirep_feast_guim.encoder import GuimEncoder
from unirep_feast_guim.objective import GuimObjective

#: d = 128, C = 1 to 4; biases, norms, the MASK vector and the three lookup tables do not count.
TABLE_3 = {
    "edi": {
        "f_j": [36_864, 73_728, 110_592, 147_456],
        "f_t": [46_848, 93_696, 140_544, 187_392],
        "f_cls": [128, 256, 384, 512],
        "layers": [589_824, 2_359_296, 5_308_416, 9_437_184],
        "f_u": [16_384, 65_536, 147_456, 262_144],
        "f_o": [16_384, 65_536, 147_456, 262_144],
        "sum": [706_432, 2_658_048, 5_854_848, 10_296_832],
    },
    "guim": {
        "f_j": [36_864] * 4,
        "f_t": [46_848] * 4,
        "f_cls": [128, 256, 384, 512],
        "layers": [589_824] * 4,
        "f_u": [16_384] * 4,
        "f_o": [16_384] * 4,
        "sum": [706_432, 706_560, 706_688, 706_816],
    },
}

PAPER = {"dim": 128, "layers": 3, "item_dim": 128, "category_dim": 128, "word_dim": 32}


def _counted(encoder: GuimEncoder) -> dict[str, int]:
    objective = GuimObjective(encoder.dim, ObjectiveSettings())
    parts = {
        "f_j": encoder.f_j.project,
        "f_t": encoder.f_t,
        "f_cls": encoder.f_cls,
        "layers": encoder.layers,
        "f_u": encoder.f_u,
        "f_o": objective.f_o,
    }
    counts = {
        name: sum(p.numel() for p in part.parameters() if p.dim() == 2)
        for name, part in parts.items()
    }
    return {**counts, "sum": sum(counts.values())}


@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
@pytest.mark.parametrize("variant", ["guim", "edi"])
def test_components_have_as_many_parameters_as_in_table_3(
    variant: str, vectors: int, encoder: Callable[..., GuimEncoder]
) -> None:
    """With the paper's sizes, and the defaults are the paper's sizes."""
    found = _counted(encoder(variant=variant, vectors=vectors, **PAPER))

    assert found == {name: column[vectors - 1] for name, column in TABLE_3[variant].items()}


def test_lookup_tables_do_not_grow_with_the_number_of_vectors(
    encoder: Callable[..., GuimEncoder],
) -> None:
    """Footnote 7: item-id, category-id and word tables have the same size in both models."""
    sizes = {
        tuple(
            table.weight.numel() for table in (e.f_j.ids, e.f_j.category.table, e.f_j.words.words)
        )
        for e in (
            encoder(variant=variant, vectors=vectors)
            for variant in ("guim", "edi")
            for vectors in (1, 3)
        )
    }

    assert len(sizes) == 1


def test_multi_head_rival_adds_one_attention_without_output_projection(
    encoder: Callable[..., GuimEncoder],
) -> None:
    """H query, key and value matrices of d x d on top of the model with one token [CLS]."""
    one, several = encoder(vectors=1, **PAPER), encoder(variant="mh", vectors=4, **PAPER)
    found = {name: p.numel() for name, p in several.named_parameters()}
    plain = {name: p.numel() for name, p in one.named_parameters()}

    assert {name: n for name, n in found.items() if not name.startswith("several.")} == plain
    assert several.several is not None
    weights = sum(p.numel() for p in several.several.parameters() if p.dim() == 2)
    assert weights == 3 * 4 * 128 * 128
