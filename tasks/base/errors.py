"""The errors that a run can fail with; each says what was found, what was needed, and where.

TrainyardError
+-- ConfigError       a parameter, file of parameters or environment variable is wrong
+-- DatasetError      the data on disk cannot be used
|   +-- ImageError    one image file cannot be used
+-- WeightsError      a file of weights does not fit, or is not one
+-- TrainingError     the training went wrong: a loss that is not finite, a batch that does not fit
+-- StorageError      a folder cannot be written, or the disk is full
+-- TrackingError     MLflow could not be given what it must hold
+-- TransferError     files could not be sent to other hosts, or brought from them
|   +-- TakenOverError  the run goes on on another host
+-- StageError        a stage of a pipeline did not end well, and so the pipeline does not
+-- GpuError          a device does not exist or cannot be used
    +-- GpuBusyError  the device is taken

StopAsked and Interrupted stand apart: they are no errors, and nothing that handles errors may swallow them.
"""


class TrainyardError(Exception):
    """Base of all errors whose message is meant for the user; shown without a traceback on the terminal."""


class ConfigError(TrainyardError):
    """A parameter, a file of parameters or an environment variable is wrong."""


class DatasetError(TrainyardError):
    """The data on disk cannot be used."""


class ImageError(DatasetError):
    """One image file cannot be used; the message starts with what is wrong and ends with the path."""


class WeightsError(TrainyardError):
    """A file of weights does not fit the model, or is not a file of weights."""


class TrainingError(TrainyardError):
    """The training itself went wrong."""


class StorageError(TrainyardError):
    """A folder cannot be written, or the disk is full."""


class TrackingError(TrainyardError):
    """MLflow could not be given what it must hold."""


class TransferError(TrainyardError):
    """Files could not be sent to other hosts, or brought from them, as MLflow's artifact store does not answer."""


class TakenOverError(TransferError):
    """A run goes on on another host, which took this one for dead."""


class StageError(TrainyardError):
    """A stage of a pipeline did not end well.

    Args:
        text: which stage, and how it ended, in its own words.
        state: Prefect's name of the state it ended in: Failed, Crashed, TimedOut, Cancelled.
    """

    def __init__(self, text: str, state: str = "Failed") -> None:
        super().__init__(text)
        self.state = state


class GpuError(TrainyardError):
    """A device does not exist or cannot be used."""


class GpuBusyError(GpuError):
    """The device is taken."""


class StopAsked(BaseException):
    """The run was asked to stop at its next checkpoint and go on later."""


class PutBack(StopAsked):
    """The run is to end now and to wait in its queue again, as what it was promised is not there."""


class Interrupted(BaseException):
    """The run was told to end by a signal: cancelled, out of time, Ctrl-C; raised where it looks or waits only."""
