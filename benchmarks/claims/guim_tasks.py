"""GUIM's downstream tasks (section 4.2): consumer matching and consumer profile prediction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from unirep_feast.batch import FIRST_ITEM
from unirep_feast.config import EncodeConfig
from unirep_feast.encoder import Encoder
from unirep_feast.inference import Inference
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.sequences import Sequences

#: Length of the list whose hits count.
M = 100

#: From (n,) user rows and a time to those who have a history then, and their (n, M) best items.
Rank = Callable[[Tensor, int], tuple[Tensor, Tensor]]


class Matching:
    """recall@100 over all items, of users who have positives, as of a time (Eq 5).

    - CMP-L: the items of the next 30 days.
    - CMP-S: the items of the next day, for each of the 30 days; a user counts once per day.
    - CMP-N: the first item of the next 30 days; the first by id, where several share its time.

    Nothing is sampled: candidates are all items that have an event before the last day ends, with
    the ones nobody had touched when the model was trained among them.
    """

    def __init__(self, sequences: Sequences, as_of: int) -> None:
        self.sequences, self.as_of = sequences, as_of
        end = as_of + 30 * MICROSECONDS_PER_DAY
        seen = torch.zeros(len(sequences.items), dtype=torch.bool)
        seen[sequences.codes[sequences.times < end].long()] = True
        seen[:FIRST_ITEM] = False
        self.candidates = seen.nonzero().squeeze(1)
        before = sequences.codes[sequences.times < as_of].long()
        self.popularity = torch.bincount(before, minlength=len(seen))[self.candidates]

    def scores(self, encoder: Encoder) -> dict[str, float]:
        """The three recalls of an encoder."""
        encoder.eval()  # type: ignore[attr-defined]
        with torch.inference_mode():
            items = encoder.embed_items(self.candidates)
        items = torch.nn.functional.normalize(items, dim=-1)
        inference = Inference(encoder, EncodeConfig(device="cpu"), "guim")

        def rank(rows: Tensor, as_of: int) -> tuple[Tensor, Tensor]:
            """The users among ``rows`` with a history, and their best M candidates."""
            eligible = inference.eligible(self.sequences, as_of)
            rows = rows[torch.isin(rows, eligible.rows)]
            vectors, _ = inference.vectors(eligible, rows)
            users = torch.from_numpy(vectors).view(len(rows), encoder.num_vectors, encoder.dim)
            users = torch.nn.functional.normalize(users, dim=-1)
            best = [(chunk @ items.T).amax(1).topk(M, dim=1).indices for chunk in users.split(256)]
            return rows, self.candidates[torch.cat(best)]

        return self._recalls(rank)

    def popular(self) -> dict[str, float]:
        """The recalls of one list for all: what was most frequent before the as-of time."""
        best = self.candidates[self.popularity.argsort(descending=True, stable=True)[:M]]

        def rank(rows: Tensor, as_of: int) -> tuple[Tensor, Tensor]:
            rows = rows[self.sequences.before(as_of).lengths[rows] > 0]
            return rows, best.expand(len(rows), -1)

        return self._recalls(rank)

    def _recalls(self, rank: Rank) -> dict[str, float]:
        day, T = MICROSECONDS_PER_DAY, self.as_of
        long = self._recall(rank, T, T + 30 * day)
        first = self._recall(rank, T, T + 30 * day, first=True)
        days = [self._recall(rank, T + n * day, T + (n + 1) * day) for n in range(30)]
        return {
            "CMP-L": float(long.mean()),
            "CMP-S": float(torch.cat(days).mean()),
            "CMP-N": float(first.mean()),
            "users": len(long),
        }

    def _recall(self, rank: Rank, start: int, end: int, first: bool = False) -> Tensor:
        """(n,) recall of each user with a history before ``start`` and an event in the time."""
        later = self.sequences.between(start, end)
        rows, best = rank((later.lengths > 0).nonzero().squeeze(1), start)
        ends = later.starts + 1 if first else later.ends
        found = []
        for row, top in zip(rows.tolist(), best, strict=True):
            positives = self.sequences.codes[later.starts[row] : ends[row]].unique()
            found.append(torch.isin(positives, top).float().mean())
        return torch.stack(found) if found else torch.zeros(0)


def profile(path: Path, label: str, ids: list[object], vectors: np.ndarray, seed: int) -> float:
    """Accuracy of a three-layer network on frozen vectors, a fifth of the users held out.

    "We feed each user embedding as the only features of the user into a three-layer fully connected
    feed-forward network" (section 4.2.2): two hidden layers and the output.

    Args:
        path: parquet table with user_id and the label.
        label: its column.
        ids: (n,) user ids.
        vectors: (n, C * d).
        seed: of the split and the network.
    """
    table = pq.read_table(path, columns=["user_id", label]).to_pandas().set_index("user_id")
    classes = table[label].loc[ids].astype(str).to_numpy()
    split = train_test_split(vectors, classes, test_size=0.2, random_state=seed, stratify=classes)
    network = MLPClassifier(
        (128, 64), early_stopping=True, n_iter_no_change=10, random_state=seed, max_iter=100
    )
    model = make_pipeline(StandardScaler(), network).fit(split[0], split[2])
    return float(accuracy_score(split[3], model.predict(split[1])))
