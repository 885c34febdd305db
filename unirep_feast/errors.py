"""Every failure a user can cause or meet, as one line: what, found, wanted, what to do next."""

from __future__ import annotations


class UnirepError(Exception):
    """Base of all expected failures; the CLI prints it as one line and exits with code 1."""


class SpecError(UnirepError):
    """The representation spec is wrong; lists every problem at once."""

    def __init__(self, origin: str, problems: list[str]) -> None:
        """Join problems to one line.

        Args:
            origin: what was read, such as ``spec purchases.yaml``.
            problems: one clause each.
        """
        count = f"{len(problems)} problems: " if len(problems) > 1 else ""
        super().__init__(f"{origin}: {count}{'; '.join(problems)}")
        self.problems = problems


class EventsError(UnirepError):
    """The event or item table cannot be read, or holds rows that cannot be used."""


class PluginError(UnirepError):
    """A plugin is unknown, broken, clashes with another, or broke its contract."""


class UnusablePluginError(PluginError):
    """A part is named whose plugin is broken or blocked."""

    def __init__(self, message: str, plugin: str) -> None:
        """Say it.

        Args:
            message: the line.
            plugin: name of the plugin; of several parts of one plugin a user is told once.
        """
        super().__init__(message)
        self.plugin = plugin


class ContractError(PluginError):
    """An encoder, objective or sampler does not do what it declares."""


class TrainingError(UnirepError):
    """Training cannot start or go on."""


class CheckpointError(UnirepError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class SnapshotError(UnirepError):
    """A snapshot cannot be written or read."""


class SearchError(UnirepError):
    """An index cannot be built or read, or a question cannot be answered."""


class EvaluationError(UnirepError):
    """A task, a probe or a result of an evaluation cannot be used."""


class LeakageError(UnirepError):
    """Vectors as of T would come from a model that has seen events at or after T."""


class CatalogError(UnirepError):
    """The catalog is unreachable, stale, or has no such row."""


class StoreError(UnirepError):
    """The feature store refused, or what it returned cannot be used."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Another library's message as a part of one line of ours, at most ``limit`` characters."""
    return " ".join(str(error).split())[:limit]
