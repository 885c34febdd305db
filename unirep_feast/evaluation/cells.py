"""The cells of a task: each probe, on each share of the labels, with each seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unirep_feast.evaluation.config import EvaluationConfig, Probe
from unirep_feast.evaluation.examples import SplitExamples
from unirep_feast.evaluation.results import Cells, cell_key

#: Probes without randomness: with all labels, every seed would give the same.
DETERMINISTIC: frozenset[Probe] = frozenset({"logistic", "neighbors", "direct", "index"})

#: Nothing is fitted: item vectors are looked up as they are.
UNTRAINED: frozenset[Probe] = frozenset({"direct", "index"})

_APPLY: dict[str, frozenset[Probe]] = {
    "ranking": frozenset({"mlp", "neighbors", "direct", "index", "blend"}),
    "impressions": frozenset({"logistic", "mlp", "boosting", "direct", "blend"}),
}
_APPLY_ELSE: frozenset[Probe] = frozenset({"logistic", "mlp", "boosting", "fine_tune", "blend"})

#: They look at numbers alone, and so can look at some of them.
_OF_NUMBERS: frozenset[Probe] = frozenset({"logistic", "mlp", "boosting", "neighbors"})

#: Not blended: they have no scores, or scores that are no probabilities of a click.
_APART: dict[str, frozenset[Probe]] = {"ranking": frozenset({"index"})}
_APART_ELSE: frozenset[Probe] = frozenset({"direct"})


@dataclass(frozen=True)
class Wanted:
    """One cell; with a ``block``, of that part of the vectors alone; a blend has ``members``."""

    probe: Probe
    fraction: float
    seed: int
    control: bool = False
    block: str = ""
    members: tuple[Wanted, ...] = ()

    @property
    def name(self) -> str:
        """What rows call the probe, such as ``logistic`` or, of a block, ``logistic:rhythm``."""
        return f"{self.probe}:{self.block}" if self.block else self.probe

    @property
    def key(self) -> str:
        """Its name in the result file."""
        return cell_key(self.name, self.fraction, self.seed, self.control)


def wanted_cells(
    config: EvaluationConfig,
    made: SplitExamples,
    items: bool = True,
    tunable: bool = False,
    control: bool = False,
    blocks: Sequence[str] = (),
    item_blocks: Sequence[str] = (),
) -> list[Wanted]:
    """All cells of a task, those with all labels and the first seed first.

    Args:
        config: the file.
        made: the task.
        items: whether the representation has item vectors.
        tunable: whether its encoder can be fine-tuned to the task.
        control: also with shuffled labels.
        blocks: of the representation's vectors; each is probed alone, too, since a model may take
            the one it needs.
        item_blocks: those of them that item vectors have, too.
    """
    task, problem = made.loaded.config, made.loaded.task.problem
    asked = task.probes or config.probes
    can = _APPLY.get(problem, _APPLY_ELSE)
    if not items:
        can -= UNTRAINED
    if not tunable:
        can -= {"fine_tune"}
    probes = [probe for probe in asked if probe in can and probe != "blend"]
    blended = "blend" in asked
    fractions = sorted(task.label_fractions or config.label_fractions, reverse=True)
    cells = []
    for fraction in fractions:
        for probe in probes:
            fixed = probe in UNTRAINED or (probe in DETERMINISTIC and fraction == 1)
            if probe in UNTRAINED and fraction < 1:
                continue
            parts = [""]
            if config.blocks:
                parts += (
                    blocks if probe in _OF_NUMBERS else item_blocks if probe == "direct" else ()
                )
            for seed in range(1 if fixed else config.seeds):
                cells += [Wanted(probe, fraction, seed, block=part) for part in parts]
    if blended:
        apart = _APART.get(problem, _APART_ELSE)
        least = 1 if problem == "ranking" else 2  # popularity is a member there
        cells += _blends([cell for cell in cells if cell.probe not in apart], least)
    cells.sort(key=lambda cell: (-cell.fraction, cell.seed))
    if control:
        kept = [probe for probe in probes if probe != "fine_tune"]
        # Of every probe several: one shuffle may by chance look like the labels.
        cells += [Wanted(probe, 1.0, seed, True) for seed in range(config.seeds) for probe in kept]
    return cells


def _blends(cells: Sequence[Wanted], least: int) -> list[Wanted]:
    """One blend per share of the labels and seed, of the cells that are made with them.

    What no seed changes is there once and blended with all; fewer than ``least`` need no blend.
    """
    found = []
    for fraction in {cell.fraction for cell in cells}:
        mine = [cell for cell in cells if cell.fraction == fraction]
        names = {cell.name for cell in mine}
        for seed in {cell.seed for cell in mine}:
            now = {cell.name: cell for cell in mine if cell.seed == seed}
            first = {cell.name: cell for cell in mine if cell.seed == 0}
            members = tuple(now.get(name) or first[name] for name in sorted(names))
            if len(members) >= least:
                found.append(Wanted("blend", fraction, seed, members=members))
    return sorted(found, key=lambda cell: cell.seed)


def missing_cells(cells: Cells, wanted: list[Wanted]) -> list[Wanted]:
    """Those that are not done."""
    return [cell for cell in wanted if cell.key not in cells.rows]
