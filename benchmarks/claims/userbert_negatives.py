"""Claim: medium-hard negatives beat random ones, hardest are no help; pools have a best size.

UserBERT as in userbert.py, on its task of recommendation, with other negatives (Fig 7, 8, 9): at
random, the globally hardest (pools of all items and of a sequence of every user), and the most
similar of smaller and larger pools. ML-100K has 1,682 items, of which 1,000 drawn events are about
a third. Random negatives out of small pools tell what a pool's size does by itself; either task
alone with random negatives stands against the same task in userbert.py.

    python benchmarks/claims/userbert_negatives.py [--seeds 5] [--data ../shared/data]

Resumable: see userbert.py; kept in benchmarks/results/userbert_negatives.json.
"""

from __future__ import annotations

from typing import Any

from userbert import run


def _pools(behaviors: int | None, sequences: int | None) -> dict[str, Any]:
    pools = {"behavior_pool": behaviors, "sequence_pool": sequences}
    kept = {"sequence_pool": 1000 if sequences is None else sequences}
    return {"objective": {"settings": kept}, "sampler": {"settings": pools}}


def _at_random(behaviors: int) -> dict[str, Any]:
    parts = _pools(behaviors, 100)
    parts["objective"]["settings"]["negatives"] = "random"
    return parts


#: m behaviors and u sequences; the paper's 1,000 and 100 are UserBERT's row in userbert.py.
STARTS: dict[str, dict[str, Any] | None] = {
    "random": {"objective": {"settings": {"negatives": "random"}}},
    "random, MBP only": {"objective": {"settings": {"negatives": "random", "bsm": False}}},
    "random, BSM only": {"objective": {"settings": {"negatives": "random", "mbp": False}}},
    "random, m 50": _at_random(50),
    "random, m 200": _at_random(200),
    "hardest": _pools(None, None),
    "m 50": _pools(50, 100),
    "m 200": _pools(200, 100),
    "m all": _pools(None, 100),
    "u 10": _pools(1000, 10),
    "u 30": _pools(1000, 30),
    "u all": _pools(1000, None),
}


def main() -> None:
    run(
        __doc__.splitlines()[0],
        "userbert_negatives.json",
        STARTS,
        ("recommendation",),
        (0.1, 1.0),
    )


if __name__ == "__main__":
    main()
