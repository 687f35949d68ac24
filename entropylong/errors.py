"""Every error the product raises on purpose: one root, named leaves, each message says what to do next."""

from __future__ import annotations


class EntropyLongError(Exception):
    """Root of all expected failures. The command line prints the message as one line and exits with `exit_code`."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the same line, without the trace, which Jupyter would print otherwise."""
        return [f"error: {self}"]


class ConfigError(EntropyLongError):
    """A config file, key or override is wrong. The user must edit what the message names."""

    exit_code = 2


class UsageError(EntropyLongError):
    """A command was called with arguments that cannot work."""

    exit_code = 2


class SourceError(EntropyLongError):
    """An input path or table is missing, unreadable or empty."""


class ModelError(EntropyLongError):
    """A model cannot be loaded safely or is not of the kind the stage needs."""


class SetupError(EntropyLongError):
    """Java, disk or another part of the machine is not as needed."""


class WorkspaceError(EntropyLongError):
    """The workspace is locked by another run or was written by a newer version."""


class CheckFailedError(EntropyLongError):
    """`entropylong check` found something wrong."""


class TableError(EntropyLongError):
    """A table cannot be read or written."""


class ConcurrentRunError(TableError):
    """A run on another machine committed to the same rows meanwhile: Delta refused this write."""


class WorkerDiedError(TableError):
    """A Python worker of Spark's ended without a word: killed by the system, or by a row."""


class ArrayFileError(EntropyLongError):
    """A file of arrays that a workspace keeps is missing or does not match its manifest."""


class IndexFileError(ArrayFileError):
    """It is a file of an index."""


class ExcludedFileError(ArrayFileError):
    """It is a file of what `corpus.exclude` keeps out."""


class RecallTooLowError(EntropyLongError):
    """The index would miss more of the true neighbours than `retrieval.min_recall` allows."""


class FeedError(EntropyLongError):
    """A sealed feed is damaged, gives other rows than it states, or cannot be cut as asked."""


class TrainingError(EntropyLongError):
    """A training run cannot begin as asked, or its loss is not a number."""


class CheckpointError(EntropyLongError):
    """A checkpoint of a training run cannot be written or read."""


class EvaluationError(EntropyLongError):
    """A benchmark cannot be run as asked: its data, the model or an endpoint does not serve."""


class ComparisonError(EntropyLongError):
    """Results cannot be put side by side: none is there, one is damaged, or it is not clear which is meant."""


class QuarantineExceededError(EntropyLongError):
    """More rows were refused than `quarantine.max_rate` allows."""


class NothingToDoError(EntropyLongError):
    """A stage has no input at all: no document, no root, no anchor. The message names the filter to relax."""
