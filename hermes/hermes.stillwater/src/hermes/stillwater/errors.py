"""Everything that stillwater raises.

    StillwaterError
    ├── CampaignError
    │   ├── CampaignRunning      (RuntimeError)
    │   ├── ExecutorBroken       (RuntimeError)
    │   ├── InvalidCampaign      (ValueError)
    │   ├── ManifestUnusable     (ValueError)
    │   ├── ManifestUnwritable   (OSError)
    │   ├── NoServerFree         (TimeoutError)
    │   ├── OutputMissing        (FileNotFoundError)
    │   ├── UnitTimeout          (TimeoutError)
    │   ├── WorkerDied           (RuntimeError)
    │   └── WorkersUnusable      (RuntimeError)
    ├── ChannelError
    │   ├── ChannelBroken        (ConnectionError)
    │   ├── ChannelClosed        (RuntimeError)
    │   └── ChannelTimeout       (TimeoutError)
    ├── ExtraMissing             (ImportError)
    ├── PipelineError
    │   ├── CannotSpawn          (RuntimeError)
    │   ├── InvalidPipeline      (ValueError)
    │   ├── JoinMismatch         (RuntimeError)
    │   ├── PipelineStopped      (RuntimeError)
    │   ├── StageDied            (RuntimeError)
    │   └── StageFailed          (RuntimeError)
    └── SeriesError
        ├── GapFound             (ValueError)
        ├── InvalidSeries        (ValueError)
        ├── OverlapFound         (ValueError)
        └── SinkUnwritable       (OSError)

A message says what was given, what was expected and what to do about it.
"""

__all__ = (
    "CampaignError",
    "CampaignRunning",
    "CannotSpawn",
    "ChannelBroken",
    "ChannelClosed",
    "ChannelError",
    "ChannelTimeout",
    "ExecutorBroken",
    "ExtraMissing",
    "GapFound",
    "InvalidCampaign",
    "InvalidPipeline",
    "InvalidSeries",
    "JoinMismatch",
    "ManifestUnusable",
    "ManifestUnwritable",
    "NoServerFree",
    "OutputMissing",
    "OverlapFound",
    "PipelineError",
    "PipelineStopped",
    "SeriesError",
    "SinkUnwritable",
    "StageDied",
    "StageFailed",
    "StillwaterError",
    "UnitTimeout",
    "WorkerDied",
    "WorkersUnusable",
)


class StillwaterError(Exception):
    """Something in stillwater went wrong."""


class ExtraMissing(StillwaterError, ImportError):
    """What was asked for needs an extra that is not installed."""


class ChannelError(StillwaterError):
    """Something went wrong between two processes."""


class ChannelBroken(ChannelError, ConnectionError):
    """The process at the other end is gone, and the stream is incomplete."""


class ChannelClosed(ChannelError, RuntimeError):
    """This end was closed, or told to stop."""


class ChannelTimeout(ChannelError, TimeoutError):
    """The other end did not move in time."""


class PipelineError(StillwaterError):
    """A pipeline cannot be built, or has failed."""


class InvalidPipeline(PipelineError, ValueError):
    """Stages or options that make no pipeline."""


class CannotSpawn(PipelineError, RuntimeError):
    """A stage cannot be brought into a process of its own."""


class JoinMismatch(PipelineError, RuntimeError):
    """Branches that are joined gave different numbers of packages."""


class PipelineStopped(PipelineError, RuntimeError):
    """The pipeline was left before its stream had ended."""


class StageDied(PipelineError, RuntimeError):
    """The process of a stage ended by a signal, or without a word."""


class StageFailed(PipelineError, RuntimeError):
    """A stage raised an error that cannot be raised again here."""


class SeriesError(StillwaterError):
    """Something is wrong with a time series."""


class InvalidSeries(SeriesError, ValueError):
    """Data or options that make no time series."""


class GapFound(SeriesError, ValueError):
    """Samples are missing between two chunks."""


class OverlapFound(SeriesError, ValueError):
    """Two chunks have samples in common."""


class SinkUnwritable(SeriesError, OSError):
    """A file cannot be written."""


class CampaignError(StillwaterError):
    """Something is wrong with a campaign."""


class InvalidCampaign(CampaignError, ValueError):
    """Units or options that make no campaign."""


class ManifestUnusable(CampaignError, ValueError):
    """A manifest that belongs to something else, or cannot be read."""


class CampaignRunning(CampaignError, RuntimeError):
    """Another process is running the same campaign."""


class NoServerFree(CampaignError, TimeoutError):
    """No server had a place for a sequence in time."""


class ExecutorBroken(CampaignError, RuntimeError):
    """The executor that was given does not work any more."""


class ManifestUnwritable(CampaignError, OSError):
    """A manifest cannot be made or written to."""


class OutputMissing(CampaignError, FileNotFoundError):
    """A unit came to its end without having written its output."""


class UnitTimeout(CampaignError, TimeoutError):
    """A unit took longer than it may."""


class WorkerDied(CampaignError, RuntimeError):
    """The process in which a unit ran is gone."""


class WorkersUnusable(CampaignError, RuntimeError):
    """Worker processes cannot be started, or cannot find the function."""
