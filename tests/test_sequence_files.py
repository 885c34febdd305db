"""Histories on disk: mapped without a copy, written whole or not at all, refused when damaged."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from unirep_feast import sequence_files
from unirep_feast.errors import EventsError
from unirep_feast.instants import MICROSECONDS_PER_DAY
from unirep_feast.sequence_files import load_sequences, save_sequences
from unirep_feast.sequences import Sequences, Window
from unirep_feast.testing.world import START, make_world

FILES = ["columns.arrow", "users.arrow", "vocabulary.arrow", "items.arrow"]


def equal(one: Sequences, other: Sequences) -> bool:
    """Whether two sequences hold equal histories of the same users, vocabulary and items."""
    a, b = (s.histories(s.all_users()) for s in (one, other))
    return (
        one.users.equals(other.users)
        and torch.equal(a.codes, b.codes)
        and torch.equal(a.times, b.times)
        and torch.equal(a.lengths, b.lengths)
        and a.columns.keys() == b.columns.keys()
        and all(
            torch.equal(a.columns[n].nan_to_num(-9), b.columns[n].nan_to_num(-9)) for n in a.columns
        )
        and (one.until, one.cut) == (other.until, other.cut)
        and one.vocabulary.hash == other.vocabulary.hash
        and one.vocabulary.counts.equals(other.vocabulary.counts)
        and one.items.item_ids.equals(other.items.item_ids)
        and one.items.titles.equals(other.items.titles)
        and one.items.categories.equals(other.items.categories)
        and one.items.known == other.items.known
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(folder: Path, verify: bool = True) -> str:
    with pytest.raises(EventsError) as caught:
        load_sequences(folder, verify)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_sequences(make_world().sequences, tmp_path / "packed")
    return tmp_path / "packed"


@pytest.mark.parametrize("string_ids", [False, True])
@pytest.mark.parametrize("slicing", ["all", "before", "between", "select", "nothing"])
def test_histories_survive_the_disk(string_ids: bool, slicing: str, tmp_path: Path) -> None:
    """Saved and loaded histories, sliced ones too, are equal in every column and id."""
    sequences = make_world(string_ids=string_ids).sequences
    day = MICROSECONDS_PER_DAY
    sequences = {
        "all": lambda: sequences,
        "before": lambda: sequences.before(START + 50 * day),
        "between": lambda: sequences.between(START + 20 * day, START + 50 * day),
        "select": lambda: sequences.select(torch.tensor([7, 2, 3])),
        "nothing": lambda: sequences.before(START),
    }[slicing]()

    save_sequences(sequences, tmp_path / "packed")

    assert equal(load_sequences(tmp_path / "packed"), sequences)


def test_a_log_without_further_columns_survives(tmp_path: Path) -> None:
    """Types and values are optional."""
    world = make_world()
    bare = Sequences(
        **{**vars(world.sequences), "columns": {}, "clip": Window(max_events=3)}  # type: ignore[arg-type]
    )

    save_sequences(bare, tmp_path / "packed")
    again = load_sequences(tmp_path / "packed")

    assert dict(again.columns) == {}
    assert again.clip == Window()
    assert torch.equal(again.codes, bare.codes)


def test_what_was_cut_off_is_not_in_the_files(tmp_path: Path) -> None:
    """Saving histories before T writes no event at or after T, in whatever hidden place."""
    world = make_world()

    manifest = save_sequences(world.past, tmp_path / "packed")

    loaded = load_sequences(tmp_path / "packed")
    assert manifest.events == int(world.past.lengths.sum()) == loaded.times.shape[0]
    assert int(loaded.times.max()) < world.until < int(world.sequences.times.max())


def test_the_manifest_says_what_is_there(saved: Path) -> None:
    """Counts, cut-off, hash and a checksum per file, in JSON."""
    sequences = make_world().sequences

    manifest = json.loads((saved / "manifest.json").read_text())

    assert manifest["format"] == 1
    assert manifest["users"] == len(sequences)
    assert manifest["events"] == sequences.codes.numel()
    assert manifest["until"] == sequences.until
    assert manifest["vocabulary_hash"] == sequences.vocabulary.hash
    assert sorted(manifest["files"]) == sorted(FILES)
    assert names(saved) == sorted([*FILES, "manifest.json"])


def test_loading_copies_nothing(tmp_path: Path) -> None:
    """Arrow allocates next to nothing, and the tensors lie within the mapped file."""
    events = 1_000_000
    sequences = make_world(users=4, longest=4).sequences
    offsets = torch.tensor([0, events // 2, events, events, events])
    big = Sequences(
        users=sequences.users,
        starts=offsets[:-1],
        ends=offsets[1:],
        codes=torch.arange(events, dtype=torch.int32) % 5 + 3,
        times=torch.arange(events),
        vocabulary=sequences.vocabulary,
        items=sequences.items,
        until=events,
        columns={"value": torch.ones(events)},
    )
    save_sequences(big, tmp_path / "packed")
    before = pa.total_allocated_bytes()

    loaded = load_sequences(tmp_path / "packed")

    assert pa.total_allocated_bytes() - before < 10_000
    mapped = _mapped_spans(tmp_path / "packed" / "columns.arrow")
    for tensor in (loaded.codes, loaded.times, loaded.columns["value"]):
        start = tensor.data_ptr()
        end = start + tensor.numel() * tensor.element_size()
        assert any(low <= start and end <= high for low, high in mapped)
    assert torch.equal(loaded.codes, big.codes)


def _mapped_spans(path: Path) -> list[tuple[int, int]]:
    """Address ranges where this process has a file mapped."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see what is mapped")
    spans = [line.split()[0] for line in maps.read_text().splitlines() if str(path) in line]
    return [tuple(int(end, 16) for end in span.split("-")) for span in spans]  # type: ignore[misc]


def test_tensors_outlive_everything_else(saved: Path) -> None:
    """The mapping lives as long as a tensor over it, even when the folder is gone."""
    codes = load_sequences(saved).codes
    expected = make_world().sequences.codes
    for file in saved.iterdir():
        file.unlink()

    assert torch.equal(codes, expected)


def test_loading_warns_of_nothing_and_writing_is_safe(saved: Path) -> None:
    """No warning about read-only memory; a write stays in memory and never reaches the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_sequences(saved)
        loaded.codes.fill_(1)
        loaded.times.zero_()

    assert equal(load_sequences(saved), make_world().sequences)


def test_an_existing_folder_is_refused(saved: Path) -> None:
    """Nothing is overwritten unasked; asked for, the new content replaces the old whole."""
    other = make_world(seed=5).past

    with pytest.raises(EventsError, match=f"{saved} exists already"):
        save_sequences(other, saved)
    assert equal(load_sequences(saved), make_world().sequences)

    save_sequences(other, saved, overwrite=True)
    assert equal(load_sequences(saved), other)
    assert names(saved.parent) == ["packed"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_nothing_half_written(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is one line; no folder appears and an old one stays as it was."""
    folder = tmp_path / "packed"
    if overwrite:
        save_sequences(make_world().sequences, folder)

    def full(path: Path, table: pa.Table) -> None:
        if path.name == "items.arrow":
            raise OSError(28, "No space left on device")
        write(path, table)

    write = sequence_files._write_arrow
    monkeypatch.setattr(sequence_files, "_write_arrow", full)
    with pytest.raises(EventsError, match="cannot be written: No space left on device; free space"):
        save_sequences(make_world(seed=3).past, folder, overwrite=overwrite)

    assert names(tmp_path) == (["packed"] if overwrite else [])
    if overwrite:
        assert equal(load_sequences(folder), make_world().sequences)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_damage_is_found(name: str, damage: str, saved: Path) -> None:
    """A file that is missing, shorter or changed in one byte is named."""
    path = saved / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    message = refused(saved)

    assert f"{saved}: {name} cannot be used (its checksum differs" in message
    assert "pack the events again" in message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "missing", "empty", "other"])
def test_gross_damage_is_found_without_checksums(name: str, damage: str, saved: Path) -> None:
    """Even unverified, a file that cannot be mapped as it should is one line."""
    path = saved / name
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        table = pa.table({"item_id": ["x"], "user_id": [1]})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    assert f"{saved}: {name} cannot be used (" in refused(saved, verify=False)


def test_a_changed_vocabulary_is_found_by_its_hash(saved: Path, tmp_path: Path) -> None:
    """A vocabulary of another log does not pass, even unverified."""
    save_sequences(make_world(seed=9).sequences, tmp_path / "other")
    (saved / "vocabulary.arrow").write_bytes((tmp_path / "other/vocabulary.arrow").read_bytes())

    assert "vocabulary.arrow cannot be used (its hash differs)" in refused(saved, verify=False)


def test_another_format_is_refused(saved: Path) -> None:
    """Found and wanted version stand in the line."""
    path = saved / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))

    assert refused(saved) == (
        f"{saved} holds histories in format 99, this version reads 1; pack the events again"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '"x"', "\x00\x01"])
def test_a_damaged_manifest_is_refused(content: str, saved: Path) -> None:
    """Whatever stands in the manifest, the answer is one line."""
    (saved / "manifest.json").write_text(content)

    message = refused(saved)

    assert str(saved) in message
    assert "pack the events again" in message


def test_another_folder_is_refused(tmp_path: Path) -> None:
    """A folder without a manifest, no folder at all, and a file."""
    (tmp_path / "file").write_text("x")

    for folder in (tmp_path, tmp_path / "none", tmp_path / "file"):
        assert refused(folder) == (
            f"{folder} holds no histories (no manifest.json); give a folder that save_sequences "
            "wrote"
        )
