"""Fair gradient clipping for PyTorch.

A training update is the sum of what each demographic group's rows cause in it. fairclip measures
those contributions, bounds them relative to each other (a *cap*), applies the standard modes of
gradient clipping on top (a *clip*), and reports what each group gained and lost against an
unclipped baseline. A bound on gradients is no guarantee about outcomes.

The names below are loaded when they are first used: importing fairclip imports no torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairclip import clipping, datasets, metrics
    from fairclip.advice import Advice, advise
    from fairclip.capping import NormCap, TargetCap
    from fairclip.clipper import FairClipper
    from fairclip.comparison import compare
    from fairclip.diagnosis import Diagnosis, diagnose
    from fairclip.exceptions import FairclipWarning
    from fairclip.groups import GroupBatchSampler, GroupEncoder, with_groups
    from fairclip.trace import StepRecord, Trace
    from fairclip.training import Checkpoint, FairClipClassifier, FairClipRegressor

__all__ = [
    "Advice",
    "Checkpoint",
    "Diagnosis",
    "FairClipClassifier",
    "FairClipRegressor",
    "FairClipper",
    "FairclipWarning",
    "GroupBatchSampler",
    "GroupEncoder",
    "NormCap",
    "StepRecord",
    "TargetCap",
    "Trace",
    "advise",
    "clipping",
    "compare",
    "datasets",
    "diagnose",
    "metrics",
    "with_groups",
]

__version__ = version("fairclip")

_HOME = {
    "Advice": "advice",
    "Checkpoint": "training",
    "Diagnosis": "diagnosis",
    "FairClipClassifier": "training",
    "FairClipRegressor": "training",
    "FairClipper": "clipper",
    "FairclipWarning": "exceptions",
    "GroupBatchSampler": "groups",
    "GroupEncoder": "groups",
    "NormCap": "capping",
    "StepRecord": "trace",
    "TargetCap": "capping",
    "Trace": "trace",
    "advise": "advice",
    "compare": "comparison",
    "diagnose": "diagnosis",
    "with_groups": "groups",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(import_module(f"fairclip.{_HOME[name]}"), name)
        if name in __all__:
            return import_module(f"fairclip.{name}")
        raise AttributeError(f"module 'fairclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
