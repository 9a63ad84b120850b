"""Training: rows, targets and group codes in, a fitted model out.

``train`` runs the epochs over inputs ``(N, d)``, targets ``(N,)`` and group codes ``(N,)``; a
*step* turns one batch of B rows into final gradients (`FairStep`, `TargetStep`, or the baselines
`WeightedStep`, `GroupDROStep`, `AggregatedStep`, `FairBatchStep`, `FairGradStep` and
`FairretStep`), and ``infer`` returns the outputs ``(N, C)``.
`FairClipClassifier` and `FairClipRegressor` are all of it as scikit-learn estimators. A
`Checkpoint` keeps a run on disk, whoever's loop it is.
"""

from fairclip.training._baselines import AggregatedStep, GroupDROStep, WeightedStep
from fairclip.training._checkpoint import Checkpoint
from fairclip.training._classifier import FairClipClassifier
from fairclip.training._cnn import make_cnn
from fairclip.training._fairbatch import FairBatchStep
from fairclip.training._fairgrad import FairGradStep
from fairclip.training._fairness_penalty import FairretStep
from fairclip.training._loop import infer, train
from fairclip.training._mlp import make_mlp
from fairclip.training._regressor import FairClipRegressor
from fairclip.training._steps import FairStep, Step, TargetStep

__all__ = [
    "AggregatedStep",
    "Checkpoint",
    "FairBatchStep",
    "FairClipClassifier",
    "FairClipRegressor",
    "FairGradStep",
    "FairStep",
    "FairretStep",
    "GroupDROStep",
    "Step",
    "TargetStep",
    "WeightedStep",
    "infer",
    "make_cnn",
    "make_mlp",
    "train",
]
