"""Item titles and categories as word codes: tokenising, stemming, word vocabulary."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from unirep_feast.config import Frozen
from unirep_feast.errors import CheckpointError, EventsError, UnirepError

Language = Literal["en", "zh", "none"]

PAD = 0
UNK = 1
FIRST_WORD = 2

Int64s = npt.NDArray[np.int64]


class TextSettings(Frozen):
    """How item texts become words, for encoders that read them."""

    language: Language = Field(
        "en",
        description="en stems English words, zh segments Chinese (extra zh), none does neither",
    )
    categories: bool = Field(
        False, description="read the words of an item's categories behind those of its title"
    )
    max_size: int | None = Field(
        50_000, ge=1, description="words that get a code, the most frequent; null: all"
    )
    min_count: int = Field(1, ge=1, description="items' occurrences a word needs for a code")
    max_words: int | None = Field(
        None, ge=1, description="words read of an item, from the start; null: all"
    )


def tokenize(texts: pa.Array | pa.ChunkedArray, language: Language = "none") -> pa.ListArray:
    """Split texts into normalised words.

    Every language: Unicode NFKC, lower case, apostrophes dropped ("women's" → "womens"), everything
    that is no letter, digit or combining mark separates words.

    Args:
        texts: (n,) strings, or lists of strings (a category path), of any Arrow string type.
        language: ``en`` stems each distinct word once (Snowball English); ``zh`` segments with
            jieba (extra ``zh``); ``none`` leaves the words as they are.

    Returns:
        (n,) list<string>; a null or a text without words gives an empty list.

    Raises:
        EventsError: the array holds neither strings nor lists of strings.
        UnirepError: the language is unknown, or its library is not installed.
    """
    if language not in get_args(Language):
        known = ", ".join(get_args(Language))
        raise UnirepError(f"unknown language {language!r} for item texts; choose one of {known}")
    plain = _normalise(_strings(texts))
    if language == "zh":
        plain = _segment(plain)
    words = _split(plain)
    if language == "en":
        words = pa.ListArray.from_arrays(words.offsets, _stem(words.values))
    return words


def joined(*columns: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Join columns of texts row by row, so that title and categories are read as one text.

    Args:
        columns: (n,) strings, or lists of strings, of any Arrow string type.

    Returns:
        (n,) large_string; nulls are read as empty texts.
    """
    plain = [pc.fill_null(_strings(column), "") for column in columns]
    return pc.binary_join_element_wise(*plain, pa.scalar(" ", pa.large_string()))


def word_limit(tokens: pa.ListArray, share: float = 0.95) -> int:
    """Return the least number of words that holds ``share`` of the non-empty texts whole.

    Args:
        tokens: (n,) list<string>, from :func:`tokenize`.
        share: in (0, 1]; LURM cuts titles where 95 % of the items are covered.

    Returns:
        At least 1, so that it can be used as a width even where there is no text at all.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    lengths = _lengths(tokens)
    lengths = np.sort(lengths[lengths > 0])
    if not len(lengths):
        return 1
    return int(lengths[int(np.ceil(share * len(lengths))) - 1])


@dataclass(frozen=True)
class WordVocabulary:
    """Which word has which code; fitted once and kept, so that codes never shift.

    Codes are by falling count, ties in alphabetical (code point) order. 0 and 1 are PAD and UNK.

    Attributes:
        words: (W - 2,) string, the word of code ``i + 2``.
        counts: (W - 2,) int64, how often it occurred when the vocabulary was fitted.
    """

    words: pa.Array
    counts: pa.Array

    @classmethod
    def fit(
        cls, tokens: pa.ListArray, max_size: int | None = None, min_count: int = 1
    ) -> WordVocabulary:
        """Give codes to the words of a catalogue; the order of the texts does not matter.

        Args:
            tokens: (n,) list<string>, from :func:`tokenize`.
            max_size: at most so many words, the most frequent, PAD and UNK not counted.
            min_count: occurrences a word needs.
        """
        counted = pc.value_counts(tokens.flatten().drop_null())
        table = pa.table({"word": counted.field("values"), "count": counted.field("counts")})
        table = table.filter(pc.greater_equal(table["count"], min_count))
        order = [("count", "descending"), ("word", "ascending")]
        table = table.sort_by(order).slice(0, max_size).combine_chunks()
        return cls(
            _one_array(table["word"].cast(pa.string())), _one_array(table["count"].cast(pa.int64()))
        )

    def __len__(self) -> int:
        """Return W, the number of codes, PAD and UNK included."""
        return len(self.words) + FIRST_WORD

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the words in code order; equal hashes mean equal codes."""
        digest = hashlib.sha256()
        # The lengths keep ["ab", "c"] and ["a", "bc"] apart.
        digest.update(pc.binary_length(self.words).to_numpy(zero_copy_only=False).astype("<i8"))
        digest.update(b"".join(self.words.cast(pa.binary()).to_pylist()))
        return digest.hexdigest()

    def encode(self, tokens: pa.ListArray, max_words: int | None = None) -> tuple[Int64s, Int64s]:
        """Turn words into codes, packed.

        Args:
            tokens: (n,) list<string>, from :func:`tokenize` with the language of the fit.
            max_words: words kept of each text, from its start; None keeps all.

        Returns:
            values: (M,) int64 codes, unknown words as UNK; never PAD.
            offsets: (n + 1,) int64; text ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
        """
        if max_words is not None and max_words < 0:
            raise ValueError(f"max_words must be >= 0, got {max_words}")
        lengths = _lengths(tokens)
        found = pc.index_in(tokens.flatten(), value_set=self.words)
        codes = pc.fill_null(found, UNK - FIRST_WORD).to_numpy(zero_copy_only=False)
        values = codes.astype(np.int64) + FIRST_WORD
        if max_words is not None and (lengths > max_words).any():
            starts = np.cumsum(lengths) - lengths
            place = np.arange(len(values)) - np.repeat(starts, lengths)
            values = values[place < max_words]
            lengths = np.minimum(lengths, max_words)
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return values, offsets

    def to_table(self) -> pa.Table:
        """Return the vocabulary as an Arrow table: word string, count int64, in code order."""
        return pa.table({"word": self.words, "count": self.counts})

    @classmethod
    def from_table(cls, table: pa.Table) -> WordVocabulary:
        """Read back what :meth:`to_table` gave.

        Raises:
            CheckpointError: columns are missing or of another type, or a word is null or repeated.
        """
        wanted = {"word": pa.string(), "count": pa.int64()}
        found = {name: table.schema.field(name).type for name in table.column_names}
        if found != wanted:
            raise CheckpointError(
                f"word vocabulary: found columns {_columns(found)}, wanted {_columns(wanted)}; "
                "the checkpoint is damaged, use another or train again"
            )
        words, counts = _one_array(table["word"]), _one_array(table["count"])
        if words.null_count or pc.count_distinct(words).as_py() != len(words):
            raise CheckpointError(
                "word vocabulary: found a null or repeated word, wanted distinct words; "
                "the checkpoint is damaged, use another or train again"
            )
        return cls(words, counts)


def _strings(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Bring any array of texts to one large_string array; a list's parts are joined by a space."""
    array = _one_array(texts)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if not _is_string(kind.value_type):
            raise EventsError(f"item texts: found {kind}, wanted string or list<string>")
        # Joining skips a list with a null in it unless the null is made an empty text.
        parts = pc.fill_null(array.flatten().cast(pa.large_string()), "")
        ends = np.cumsum(_lengths(array))
        lists = pa.LargeListArray.from_arrays(np.concatenate([[0], ends]).astype(np.int64), parts)
        return pc.binary_join(lists, pa.scalar(" ", pa.large_string()))
    if not _is_string(kind):
        raise EventsError(f"item texts: found {kind}, wanted string or list<string>")
    return array.cast(pa.large_string())


def _is_string(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_null,
        )
    )


def _normalise(texts: pa.Array) -> pa.Array:
    texts = pc.utf8_lower(pc.utf8_normalize(pc.fill_null(texts, ""), form="NFKC"))
    texts = pc.replace_substring_regex(texts, pattern="['\u2019]", replacement="")
    return pc.replace_substring_regex(texts, pattern=r"[^\p{L}\p{N}\p{M}]+", replacement=" ")


def _split(texts: pa.Array) -> pa.ListArray:
    """Split at single spaces, without the empty words that leading and trailing ones leave."""
    lists = pc.split_pattern(texts, " ")
    words = lists.flatten().cast(pa.string())
    full = pc.not_equal(words, "")
    kept = np.concatenate([[0], np.cumsum(full.to_numpy(zero_copy_only=False))])
    ends = np.concatenate([[0], np.cumsum(_lengths(lists))])
    return pa.ListArray.from_arrays(pa.array(kept[ends], pa.int32()), words.filter(full))


def _stem(words: pa.Array) -> pa.Array:
    """Stem every distinct word once; Python speed matters there only, not per occurrence."""
    import snowballstemmer

    encoded = words.dictionary_encode()
    stems = snowballstemmer.stemmer("english").stemWords(encoded.dictionary.to_pylist())
    return pa.array(stems, pa.string()).take(encoded.indices)


def _segment(texts: pa.Array) -> pa.Array:
    """Put spaces between Chinese words, every distinct text once; jieba works text by text."""
    try:
        import jieba
    except ImportError:
        raise UnirepError(
            "Chinese item texts need jieba, which is not installed; "
            "run: pip install 'unirep-feast[zh]'"
        ) from None
    jieba.setLogLevel("WARNING")  # it reports the loading of its dictionary on stderr
    encoded = texts.dictionary_encode()
    parts = [" ".join(jieba.cut(text)) for text in encoded.dictionary.to_pylist()]
    spaced = pc.replace_substring_regex(pa.array(parts, pa.large_string()), r" +", " ")
    return spaced.take(encoded.indices)


def _lengths(lists: pa.Array) -> Int64s:
    """Return (n,) list lengths, 0 for nulls."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), np.int64)


def _one_array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    return values


def _columns(found: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in found.items()) or "none"
