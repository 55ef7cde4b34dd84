"""The exceptions that training raises; each message says what is wrong and what to do about it.

TrainingError
+-- ConfigError(ValueError)      a bad setting, or settings that contradict each other; exit code 2
+-- DataError(ValueError)        the photographs are missing, unreadable or too few
+-- CheckpointError(ValueError)  a checkpoint or a run folder is missing, damaged, or in use
+-- DownloadError(RuntimeError)  published weights cannot be downloaded
+-- ExportError(RuntimeError)    a model file cannot be written, or fails verification
+-- Diverged(RuntimeError)       the loss is NaN or infinite, or rose and did not recover
"""


class TrainingError(Exception):
    """The base class of all errors that training raises."""


class ConfigError(TrainingError, ValueError):
    """A setting is unknown or out of range; the message has one line for each."""


class DataError(TrainingError, ValueError):
    """The folder cannot be trained on; the message says what is missing and where."""


class CheckpointError(TrainingError, ValueError):
    """The file is missing, truncated, or not a checkpoint of this program."""


class DownloadError(TrainingError, RuntimeError):
    """A download failed or has the wrong SHA-256; the message says how to go on without it."""


class ExportError(TrainingError, RuntimeError):
    """A model file cannot be written or differs from its checkpoint; no partial file is left."""


class Diverged(TrainingError, RuntimeError):
    """The run cannot recover; the message says at which step, why, and what to try."""
