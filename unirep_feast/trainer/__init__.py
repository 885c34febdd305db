"""The fit loop: sequences and a trio in, records and checkpoints out.

``units`` says which training units make which step, ``best`` which weights are kept, ``ddp`` how
several processes share a step, and ``loop`` runs it.
"""

from __future__ import annotations

from unirep_feast.trainer.loop import Save, Trainer
from unirep_feast.trainer.records import Record

__all__ = ["Record", "Save", "Trainer"]
