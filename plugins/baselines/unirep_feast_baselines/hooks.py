"""What this distribution offers to the host; torch is imported when something is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unirep_feast import hookimpl
from unirep_feast_baselines import config

if TYPE_CHECKING:
    from torch import Tensor

    from unirep_feast.encoder import Encoder
    from unirep_feast.hookspecs import Fit, RegisterEncoder, RegisterObjective, RegisterSampler
    from unirep_feast.objective import Objective
    from unirep_feast.sampler import Sampler
    from unirep_feast.sequences import Sequences, Vocabulary

    Prepared = Mapping[str, Tensor]

#: The plugin API this distribution was written for.
UNIREP_API = 1


@hookimpl
def unirep_register_encoders(register: RegisterEncoder) -> None:
    """Offer baselines that nothing trains, encoders that something does, and several at once."""
    _register_untrained(register)
    _register_bags(register)
    _register_trained(register)

    def fit_all(
        settings: config.ConcatSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Prepared:
        from unirep_feast_baselines.concat import prepare_concat

        return prepare_concat(settings, vocabulary, sequences, fit)

    def concat(
        settings: config.ConcatSettings, vocabulary: Vocabulary, prepared: Prepared
    ) -> Encoder:
        from unirep_feast_baselines.concat import ConcatEncoder

        return ConcatEncoder(vocabulary, settings, prepared)

    register("baselines.concat", concat, config.ConcatSettings, fit_all)


def _register_untrained(register: RegisterEncoder) -> None:
    """Random vectors and event aggregates."""

    def random(
        settings: config.RandomSettings, vocabulary: Vocabulary, prepared: Prepared
    ) -> Encoder:
        from unirep_feast_baselines.random_vectors import RandomEncoder

        return RandomEncoder(len(vocabulary), settings)

    def fit_aggregates(
        settings: config.AggregateSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Prepared:
        from unirep_feast_baselines.aggregates import prepare_aggregates

        return prepare_aggregates(settings, vocabulary, sequences)

    def aggregates(
        settings: config.AggregateSettings, vocabulary: Vocabulary, prepared: Prepared
    ) -> Encoder:
        from unirep_feast_baselines.aggregates import AggregateEncoder

        return AggregateEncoder(vocabulary, settings, prepared)

    register("baselines.random", random, config.RandomSettings)
    register("baselines.aggregates", aggregates, config.AggregateSettings, fit_aggregates)


def _register_bags(register: RegisterEncoder) -> None:
    """TF-IDF, word2vec, doc2vec and matrix factorisation, fitted by libraries."""

    def fit_tfidf(
        settings: config.TfidfSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Prepared:
        from unirep_feast_baselines.tfidf import prepare_tfidf

        return prepare_tfidf(settings, sequences)

    def tfidf(
        settings: config.TfidfSettings, vocabulary: Vocabulary, prepared: Prepared
    ) -> Encoder:
        from unirep_feast_baselines.tfidf import TfidfEncoder

        return TfidfEncoder(settings, prepared)

    def fit_word2vec(
        settings: config.Word2VecSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Prepared:
        from unirep_feast_baselines.word2vec import prepare_word2vec

        return prepare_word2vec(settings, sequences)

    def word2vec(
        settings: config.Word2VecSettings, vocabulary: Vocabulary, prepared: Prepared
    ) -> Encoder:
        from unirep_feast_baselines.word2vec import Word2VecEncoder

        return Word2VecEncoder(prepared["word2vec.items"])

    def fit_doc2vec(
        settings: config.Doc2VecSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Prepared:
        from unirep_feast_baselines.doc2vec import prepare_doc2vec

        return prepare_doc2vec(settings, sequences)

    def doc2vec(
        settings: config.Doc2VecSettings, vocabulary: Vocabulary, prepared: Prepared
    ) -> Encoder:
        from unirep_feast_baselines.doc2vec import Doc2VecEncoder

        return Doc2VecEncoder(settings, prepared)

    def fit_als(
        settings: config.AlsSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Prepared:
        from unirep_feast_baselines.als import prepare_als

        return prepare_als(settings, sequences)

    def als(settings: config.AlsSettings, vocabulary: Vocabulary, prepared: Prepared) -> Encoder:
        from unirep_feast_baselines.als import AlsEncoder

        return AlsEncoder(settings, prepared)

    register("baselines.tfidf", tfidf, config.TfidfSettings, fit_tfidf)
    register("baselines.word2vec", word2vec, config.Word2VecSettings, fit_word2vec)
    register("baselines.doc2vec", doc2vec, config.Doc2VecSettings, fit_doc2vec)
    register("baselines.als", als, config.AlsSettings, fit_als)


def _register_trained(register: RegisterEncoder) -> None:
    """SUMN, and the supervised models."""

    def fit_sumn(
        settings: config.SumnSettings, vocabulary: Vocabulary, sequences: Sequences, fit: Fit
    ) -> Prepared:
        from unirep_feast_baselines.sumn import prepare_sumn

        return prepare_sumn(settings, sequences)

    def sumn(settings: config.SumnSettings, vocabulary: Vocabulary, prepared: Prepared) -> Encoder:
        from unirep_feast_baselines.sumn import SumnEncoder

        return SumnEncoder(len(vocabulary), settings, prepared)

    def words(
        settings: config.TextEncoderSettings,
        vocabulary: Vocabulary,
        sequences: Sequences,
        fit: Fit,
    ) -> Prepared:
        from unirep_feast_baselines.reading import prepare_words

        return prepare_words(settings, sequences)

    def textcnn(
        settings: config.TextCnnSettings, vocabulary: Vocabulary, prepared: Prepared
    ) -> Encoder:
        from unirep_feast_baselines.supervised import TextCnnEncoder

        return TextCnnEncoder(settings, prepared)

    def han(settings: config.HanSettings, vocabulary: Vocabulary, prepared: Prepared) -> Encoder:
        from unirep_feast_baselines.supervised import HanEncoder

        return HanEncoder(settings, prepared)

    register("baselines.sumn", sumn, config.SumnSettings, fit_sumn)
    register("baselines.textcnn", textcnn, config.TextCnnSettings, words)
    register("baselines.han", han, config.HanSettings, words)


@hookimpl
def unirep_register_objectives(register: RegisterObjective) -> None:
    """Offer NT-Xent and behavioral consistency."""

    def contrast(settings: config.ContrastSettings, encoder: Encoder) -> Objective:
        from unirep_feast_baselines.contrast import ContrastObjective

        return ContrastObjective(encoder.num_vectors * encoder.dim, settings)

    def sumn(settings: config.SumnObjectiveSettings, encoder: Encoder) -> Objective:
        from unirep_feast_baselines.sumn import ConsistencyObjective

        return ConsistencyObjective(encoder.dim, settings)

    register("baselines.contrast", contrast, config.ContrastSettings)
    register("baselines.sumn", sumn, config.SumnObjectiveSettings)


@hookimpl
def unirep_register_samplers(register: RegisterSampler) -> None:
    """Offer histories cut in two."""

    def cut(settings: config.CutSettings) -> Sampler:
        from unirep_feast_baselines.cut import CutSampler

        return CutSampler(settings)

    register("baselines.sumn", cut, config.CutSettings)
