"""Tokenising, stemming and the word vocabulary."""

from __future__ import annotations

import builtins
import unicodedata
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirep_feast.errors import CheckpointError, EventsError, UnirepError
from unirep_feast.text import FIRST_WORD, PAD, UNK, WordVocabulary, tokenize, word_limit

WORDS = st.text(st.sampled_from("abcé日"), min_size=1, max_size=3)
TEXTS = st.lists(st.lists(WORDS, max_size=8), max_size=12)
ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def lists(texts: list[list[str] | None]) -> pa.ListArray:
    return pa.array(texts, pa.list_(pa.string()))


def test_tokenize_splits_and_lowers() -> None:
    """Case, punctuation, width and apostrophes are normalised; letters of any script stay."""
    texts = [
        "Women's RUNNING-Shoes (2 pairs)",
        "\uff21\uff22\uff23\uff11\uff12 Ünï_code",
        "हिन्दी don\u2019t",
        "--",
        "",
        None,
    ]

    assert tokenize(pa.array(texts)).to_pylist() == [
        ["womens", "running", "shoes", "2", "pairs"],
        ["abc12", "ünï", "code"],
        ["हिन्दी", "dont"],
        [],
        [],
        [],
    ]


def test_tokenize_stems_english() -> None:
    """English words are reduced to their Snowball stems."""
    texts = pa.array(["Women's running shoes", "woman ran generously"])

    assert tokenize(texts, "en").to_pylist() == [
        ["women", "run", "shoe"],
        ["woman", "ran", "generous"],
    ]


def test_stemming_touches_each_distinct_word_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue that repeats its words costs as much stemming as its distinct words."""
    import snowballstemmer

    seen: list[str] = []

    class Recorder:
        def stemWords(self, words: list[str]) -> list[str]:  # noqa: N802
            seen.extend(words)
            return words

    monkeypatch.setattr(snowballstemmer, "stemmer", lambda language: Recorder())
    tokenize(pa.array(["red mug", "red red", "mug"] * 50), "en")

    assert sorted(seen) == ["mug", "red"]


def test_tokenize_segments_chinese() -> None:
    """Chinese is cut into words, mixed text keeps its Latin words, punctuation goes."""
    pytest.importorskip("jieba")
    texts = pa.array(["我来到北京\uff0c清华大学\uff01", "Nike 跑鞋", None])

    assert tokenize(texts, "zh").to_pylist() == [
        ["我", "来到", "北京", "清华大学"],
        ["nike", "跑鞋"],
        [],
    ]


def test_missing_jieba_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without jieba the error says which extra to install; other languages do not need it."""
    real = builtins.__import__

    def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "jieba":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)

    with pytest.raises(UnirepError, match=r"pip install 'unirep-feast\[zh\]'"):
        tokenize(pa.array(["北京"]), "zh")
    assert tokenize(pa.array(["mugs"]), "en").to_pylist() == [["mug"]]


def test_tokenize_refuses_what_is_no_text() -> None:
    """Numbers and unknown languages are refused by name."""
    with pytest.raises(EventsError, match="found int64, wanted string"):
        tokenize(pa.array([1, 2]))
    with pytest.raises(UnirepError, match=r"unknown language 'de'.*en, zh, none"):
        tokenize(pa.array(["x"]), "de")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "texts",
    [
        pa.array(["a b", None, "c"]),
        pa.array(["a b", None, "c"], pa.large_string()),
        pa.array(["a b", None, "c"]).dictionary_encode(),
        pa.chunked_array([["a b", None], ["c"]]),
        pa.array([["a", "b"], None, ["c"]]),
        pa.array([["a", None, "b"], [], ["c"]], pa.large_list(pa.large_string())),
        pa.array(["x", "a b", None, "c", "y"]).slice(1, 3),
        pa.array([["x"], ["a", "b"], None, ["c"], ["y"]]).slice(1, 3),
        pa.chunked_array([pa.array(["x", "a b"]).slice(1), pa.array([None, "c"])]),
    ],
)
def test_tokenize_takes_any_string_array(texts: pa.Array) -> None:
    """Plain, large, dictionary, chunked, sliced and list arrays of text give the same words."""
    assert tokenize(texts).to_pylist() == [["a", "b"], [], ["c"]]


@pytest.mark.parametrize("texts", [pa.array([], pa.string()), pa.chunked_array([], pa.string())])
def test_tokenize_nothing(texts: pa.Array) -> None:
    """No texts give no lists, in every language."""
    pytest.importorskip("jieba")
    for language in ("en", "zh", "none"):
        assert tokenize(texts, language).to_pylist() == []  # type: ignore[arg-type]


@given(st.lists(ANYTHING | st.none(), max_size=8))
def test_tokens_are_words(texts: list[str | None]) -> None:
    """Whatever the text: one list each, no empty word, nothing but letters, digits and marks."""
    tokens = tokenize(pa.array(texts, pa.string())).to_pylist()

    assert len(tokens) == len(texts)
    for word in (word for text in tokens for word in text):
        assert word
        # Arrow's and Python's Unicode tables may be of different versions: unassigned is allowed.
        assert all(
            unicodedata.category(letter)[0] in "LNM" or unicodedata.category(letter) == "Cn"
            for letter in word
        )


@given(st.lists(ANYTHING, max_size=8), st.integers(0, 8))
def test_a_text_is_tokenised_alone(texts: list[str], cut: int) -> None:
    """The words of a text do not depend on the texts beside it."""
    whole = tokenize(pa.array(texts, pa.string()), "en").to_pylist()
    parts = [
        tokenize(pa.array(t, pa.string()), "en").to_pylist() for t in (texts[:cut], texts[cut:])
    ]

    assert whole == parts[0] + parts[1]


@given(TEXTS, st.randoms(use_true_random=False))
def test_fit_does_not_depend_on_order(texts: list[list[str]], random: Any) -> None:
    """Shuffling the texts, and the words in them, leaves the vocabulary as it was."""
    shuffled = [random.sample(text, len(text)) for text in random.sample(texts, len(texts))]
    one, other = WordVocabulary.fit(lists(texts)), WordVocabulary.fit(lists(shuffled))

    assert one.words.equals(other.words)
    assert one.hash == other.hash


@given(TEXTS, st.integers(0, 5), st.integers(1, 4))
def test_fit_equals_a_loop(texts: list[list[str]], max_size: int, min_count: int) -> None:
    """Words are ordered by falling count, then by code points; rare ones and the tail get none."""
    counts = Counter(word for text in texts for word in text)
    ordered = sorted((-n, word) for word, n in counts.items() if n >= min_count)[:max_size]
    vocabulary = WordVocabulary.fit(lists(texts), max_size, min_count)

    assert vocabulary.words.to_pylist() == [word for _, word in ordered]
    assert vocabulary.counts.to_pylist() == [-n for n, _ in ordered]
    assert len(vocabulary) == len(ordered) + 2


@given(TEXTS, TEXTS, st.none() | st.integers(0, 9))
def test_encode_equals_a_loop(
    known: list[list[str]], texts: list[list[str]], max_words: int | None
) -> None:
    """Each text's first words come out in order, cut at the limit, unknown ones as UNK."""
    vocabulary = WordVocabulary.fit(lists(known))
    codes = {word: FIRST_WORD + i for i, word in enumerate(vocabulary.words.to_pylist())}
    values, offsets = vocabulary.encode(lists(texts), max_words)

    assert values.dtype == offsets.dtype == np.int64
    assert [values[a:b].tolist() for a, b in pairwise(offsets)] == [
        [codes.get(word, UNK) for word in text[:max_words]] for text in texts
    ]
    assert offsets[0] == 0
    assert offsets[-1] == len(values)
    assert not (values == PAD).any()


@given(TEXTS)
def test_table_round_trip(texts: list[list[str]]) -> None:
    """A vocabulary comes back from its table with the same words, counts and hash."""
    vocabulary = WordVocabulary.fit(lists(texts))
    back = WordVocabulary.from_table(vocabulary.to_table())

    assert back == vocabulary
    assert back.hash == vocabulary.hash


def test_hash_tells_vocabularies_apart() -> None:
    """Order and word boundaries count; slicing an array that holds the same words does not."""
    counts = pa.array([1, 1], pa.int64())
    one = WordVocabulary(pa.array(["ab", "c"]), counts)

    assert one.hash != WordVocabulary(pa.array(["a", "bc"]), counts).hash
    assert one.hash != WordVocabulary(pa.array(["c", "ab"]), counts).hash
    assert one.hash == WordVocabulary(pa.array(["x", "ab", "c"]).slice(1), counts).hash


def test_encode_of_nulls_and_slices() -> None:
    """A null text is an empty one, a null word is unknown, a slice encodes what it shows."""
    vocabulary = WordVocabulary.fit(lists([["a", "a", "b"]]))
    texts = lists([["x"], None, ["b", None, "a"], ["x"]]).slice(1, 2)
    values, offsets = vocabulary.encode(texts)

    assert values.tolist() == [3, UNK, 2]
    assert offsets.tolist() == [0, 0, 3]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (pa.table({"word": ["a"]}), "found columns word string, wanted word string, count int64"),
        (pa.table({"word": [1], "count": [1]}), "found columns word int64"),
        (pa.table({"word": ["a", "a"], "count": [1, 1]}), "null or repeated word"),
        (pa.table({"word": pa.array([None], pa.string()), "count": [1]}), "null or repeated word"),
    ],
)
def test_damaged_table_is_refused(table: pa.Table, problem: str) -> None:
    """A table that is no vocabulary is a checkpoint error that says what was found."""
    with pytest.raises(CheckpointError, match=problem):
        WordVocabulary.from_table(table)


def test_word_limit_covers_the_share() -> None:
    """The limit is the least width that holds the share of non-empty texts whole."""
    texts = lists([["w"] * n for n in (1, 2, 3, 10)] + [[], None])

    assert word_limit(texts, 0.75) == 3
    assert word_limit(texts, 0.76) == 10
    assert word_limit(texts, 1.0) == 10
    assert word_limit(lists([[], None])) == 1


def test_text_needs_no_torch() -> None:
    """Tokenising stays light: neither torch nor a tokeniser is loaded by importing it."""
    import subprocess
    import sys

    code = (
        "import sys, unirep_feast.text; "
        "print([m for m in ('torch', 'feast', 'jieba', 'snowballstemmer') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"
