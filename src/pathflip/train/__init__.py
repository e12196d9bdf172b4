"""Training: one loop, and the steps it can take."""

from pathflip.train.align_step import AlignStep
from pathflip.train.batches import Batches, BatchSampler, SampledBatches
from pathflip.train.instruct_step import InstructStep
from pathflip.train.loop import TrainResult, fit
from pathflip.train.optim import OptimConfig, build_optimizer, learning_rate
from pathflip.train.run_setup import Evaluator, Save
from pathflip.train.train_config import TrainConfig
from pathflip.train.train_step import TrainStep
from pathflip.train.training_log import read_metrics

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
    "TrainStep",
    "build_optimizer",
    "fit",
    "learning_rate",
    "read_metrics",
]
