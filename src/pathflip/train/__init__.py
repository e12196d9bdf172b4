"""Training: one loop, and the steps it can take."""

from pathflip.train.align import AlignStep
from pathflip.train.batches import Batches, BatchSampler, SampledBatches
from pathflip.train.instruct import InstructStep
from pathflip.train.loop import Evaluator, Save, TrainConfig, TrainResult, fit
from pathflip.train.metrics import read_metrics
from pathflip.train.optim import OptimConfig, build_optimizer, learning_rate

__all__ = [
    "AlignStep",
    "BatchSampler",
    "Batches",
    "Evaluator",
    "InstructStep",
    "OptimConfig",
    "SampledBatches",
    "Save",
    "TrainConfig",
    "TrainResult",
    "build_optimizer",
    "fit",
    "learning_rate",
    "read_metrics",
]
