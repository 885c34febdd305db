from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from unirep_feast.batch import SequenceBatch
from unirep_feast.errors import TrainingError
from unirep_feast.sampler import Draw, Sampler, Units
from unirep_feast.sequences import Sequences, Window
from unirep_feast_clue.config import LabelsSettings
from unirep_feast_clue.labels import LabelsSampler

World = Callable[..., Sequences]
PLAIN = [("a", 10), ("b", 20), ("c", 30)]
MICROSECONDS = pa.timestamp("us", tz="UTC")


def _sampler(tmp_path: Path, columns: dict[str, object], **settings: object) -> LabelsSampler:
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table(columns), path)
    return LabelsSampler(LabelsSettings.model_validate({"path": str(path), **settings}))


def _sample(sampler: LabelsSampler, sequences: Sequences) -> tuple[SequenceBatch, Tensor]:
    users = sampler.units(sequences)
    views = sampler.sample(sequences, Units(torch.arange(len(users)), users), Draw(0, 0))
    history, label = views["history"], views["label"]
    assert isinstance(history, SequenceBatch) and isinstance(label, Tensor)
    return history, label


def test_rows_become_units_with_sorted_label_codes(world: World, tmp_path: Path) -> None:
    """One unit per row, several per user; codes are places among the sorted labels."""
    columns = {"user_id": ["u1", "u0", "u1"], "label": ["tea", "ale", "rum"]}
    sampler = _sampler(tmp_path, columns)
    sequences = world([PLAIN, PLAIN[:1]])
    assert isinstance(sampler, Sampler)

    history, label = _sample(sampler, sequences)
    assert sampler.units(sequences).tolist() == [1, 0, 1]
    assert sampler.classes.to_pylist() == ["ale", "rum", "tea"]
    assert label.tolist() == [2, 0, 1]
    assert history.lengths.tolist() == [1, 3, 1]
    assert sampler.left_out == {}


def test_histories_end_strictly_before_the_labels_time(world: World, tmp_path: Path) -> None:
    """An event at the very time of the label is not in the history."""
    times = pa.array([20, 21, 31], MICROSECONDS)
    columns = {"user_id": ["u0"] * 3, "label": [1, 0, 1], "when": times}
    history, label = _sample(_sampler(tmp_path, columns, time="when"), world([PLAIN], until=100))

    assert history.lengths.tolist() == [1, 2, 3]
    assert history.as_of.tolist() == [20, 21, 31]
    assert label.tolist() == [1, 0, 1]


def test_what_cannot_be_a_unit_is_left_out_and_counted(world: World, tmp_path: Path) -> None:
    """Null labels, users and times, strangers, labels of the future and too short histories."""
    columns = {
        "user_id": pa.array(["u0", "u0", None, "who", "u0", "u0", "u0"]),
        "label": pa.array(["x", None, "x", "y", "x", "x", "x"]),
        "when": pa.array([25, 25, 25, 25, None, 40, 5], MICROSECONDS),
    }
    sampler = _sampler(tmp_path, columns, time="when")
    sequences = world([PLAIN], until=40)

    assert sampler.units(sequences).tolist() == [0]
    assert sampler.left_out == {
        "null label": 1,
        "null or unknown user": 2,
        "null time": 1,
        "label after the training data": 1,
        "too few events": 1,
    }
    assert sampler.classes.to_pylist() == ["x", "y"]  # of the whole table: codes never depend on T


def test_enough_events_are_those_inside_the_window(world: World, tmp_path: Path) -> None:
    """The encoder's window clips before events are counted."""
    columns = {"user_id": ["u0", "u1"], "label": [0, 1]}
    sequences = world([PLAIN, PLAIN[:1]], Window(max_events=2))

    sampler = _sampler(tmp_path, columns, min_events=2)
    assert sampler.units(sequences).tolist() == [0]
    assert _sample(sampler, sequences)[0].codes.tolist() == [4, 5]


def test_timeless_labels_use_all_events_before_the_cut_off(world: World, tmp_path: Path) -> None:
    """The training cut-off bounds the history of a label without a time."""
    columns = {"user_id": ["u0"], "label": [True]}
    history, _ = _sample(_sampler(tmp_path, columns), world([PLAIN]).before(30))

    assert history.codes.tolist() == [3, 4]


def test_a_later_cut_off_is_matched_anew(world: World, tmp_path: Path) -> None:
    """One sampler serves several slices of the log."""
    sampler = _sampler(tmp_path, {"user_id": ["u0"], "label": [1]}, min_events=3)
    sequences = world([PLAIN])

    assert sampler.units(sequences.before(30)).tolist() == []
    assert sampler.units(sequences).tolist() == [0]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_user_ids_of_any_text_type_match(world: World, tmp_path: Path, kind: pa.DataType) -> None:
    """How a writer stored text does not matter."""
    columns = {
        "user_id": pa.array(["u1", "u0"]).cast(kind),
        "label": pa.array(["x", "y"]).cast(kind),
    }
    sampler = _sampler(tmp_path, columns)

    assert sampler.units(world([PLAIN, PLAIN])).tolist() == [1, 0]
    assert sampler.classes.to_pylist() == ["x", "y"]


def test_user_ids_of_another_kind_match_nobody(world: World, tmp_path: Path) -> None:
    """Dates are no user ids; every row is left out, none crashes."""
    columns = {"user_id": [datetime(2020, 1, 1, tzinfo=UTC)], "label": ["x"]}
    sampler = _sampler(tmp_path, columns)

    assert sampler.units(world([PLAIN])).tolist() == []
    assert sampler.left_out == {"null or unknown user": 1}


def test_a_missing_file_or_column_is_one_clear_line(tmp_path: Path) -> None:
    """The message names the file, what was found and what to set."""
    gone = LabelsSampler(LabelsSettings(path=str(tmp_path / "gone.parquet")))
    with pytest.raises(TrainingError, match=r"gone\.parquet.*give a parquet file"):
        _ = gone.classes

    sampler = _sampler(tmp_path, {"user_id": ["u0"], "sex": ["f"]})
    with pytest.raises(TrainingError, match="no column label; found user_id, sex"):
        _ = sampler.classes

    csv = tmp_path / "labels.csv"
    csv.write_text("user_id,label\nu0,x\n")
    with pytest.raises(TrainingError, match="no parquet file"):
        _ = LabelsSampler(LabelsSettings(path=str(csv))).classes


def test_times_without_a_zone_are_refused(tmp_path: Path) -> None:
    """A time that may be hours off is worse than an error."""
    columns = {"user_id": ["u0"], "label": [1], "when": pa.array([5], pa.timestamp("us"))}
    sampler = _sampler(tmp_path, columns, time="when")
    with pytest.raises(TrainingError, match="wanted a timestamp with a time zone"):
        _ = sampler.classes
