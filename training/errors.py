"""What training raises for its users; each message says what is wrong and what to do.

TrainingError
+-- ConfigError(ValueError)      a setting, or several that do not go together; usage, exit code 2
+-- DataError(ValueError)        the photographs are missing, unreadable or too few
+-- CheckpointError(ValueError)  a checkpoint or a run folder is missing, damaged, or in use
+-- DownloadError(RuntimeError)  published weights cannot be had
+-- ExportError(RuntimeError)    a model file cannot be made, or is not what it says
+-- Diverged(RuntimeError)       the loss is no number, or rose and does not come back
"""


class TrainingError(Exception):
    """The base of all of them."""


class ConfigError(TrainingError, ValueError):
    """Unknown settings, or values outside their range; the message names each in a line of its own."""


class DataError(TrainingError, ValueError):
    """The folder cannot be trained on; the message names what is missing and where."""


class CheckpointError(TrainingError, ValueError):
    """The file is missing, cut off, or not a checkpoint of this program."""


class DownloadError(TrainingError, RuntimeError):
    """The network, the server or the file is at fault; the message says how to go on without them."""


class ExportError(TrainingError, RuntimeError):
    """The file cannot be written or does not answer as the checkpoint; nothing is left behind."""


class Diverged(TrainingError, RuntimeError):
    """Going on would not help; the message says at which step, why, and what to try."""
