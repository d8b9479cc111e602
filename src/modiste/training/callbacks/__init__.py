"""Lightning callbacks: progress, cost, checkpoints, interruption, averaging, selection and wandb."""

from modiste.training.callbacks.averaging import EMA
from modiste.training.callbacks.checkpoints import (
    CheckpointFiles,
    EpochCheckpoint,
    OwnPaths,
    RecentCheckpoint,
    check_checkpoint_space,
)
from modiste.training.callbacks.cost import Cost, Throughput
from modiste.training.callbacks.interruption import Interrupted, Interruptible, fast_dev_run, is_lost_worker
from modiste.training.callbacks.progress import EpochLines, LineProgress, progress
from modiste.training.callbacks.selection import Selection
from modiste.training.callbacks.wandb import Artifacts, SampleRetrievals

__all__ = [
    "EMA",
    "Artifacts",
    "CheckpointFiles",
    "Cost",
    "EpochCheckpoint",
    "EpochLines",
    "Interrupted",
    "Interruptible",
    "LineProgress",
    "OwnPaths",
    "RecentCheckpoint",
    "SampleRetrievals",
    "Selection",
    "Throughput",
    "check_checkpoint_space",
    "fast_dev_run",
    "is_lost_worker",
    "progress",
]
