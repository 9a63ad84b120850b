"""MLflow: each step's numbers as metrics of the active run."""

import re
import zlib

from fairclip._extras import require

__all__ = ["Metrics"]

mlflow = require("mlflow", "mlflow")

_LONGEST = 200  # characters: MLflow takes 250


class Metrics:
    """A logger for `fairclip.Trace.log_to` that calls ``mlflow.log_metrics``.

    MLflow refuses some characters, so "factor[sex=Female, y=1]" becomes
    "fairclip/factor/sex_Female_y_1". Of two groups that would get one name the second gets a number
    made from its own name at the end.

    Example:
        >>> import mlflow, torch, fairclip
        >>> from fairclip.integrations.mlflow import Metrics
        >>> mlflow.set_tracking_uri("sqlite:///mlflow.db")  # MLflow gives up its store of files
        >>> model = torch.nn.Linear(3, 1)
        >>> clipper = fairclip.FairClipper(model, group_counts=[60, 40])
        >>> with mlflow.start_run() as run, clipper.trace.log_to(Metrics(), every=2):
        ...     for _ in range(4):
        ...         with clipper.watch([0, 0, 0, 1]):
        ...             model(torch.randn(4, 3)).square().mean().backward()
        ...         record = clipper.clip_grad_()
        ...         model.zero_grad()
        >>> history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "fairclip/n/1")
        >>> [(metric.step, metric.value) for metric in history]
        [(0, 1.0), (2, 1.0)]
    """

    def __init__(self) -> None:
        self._takers: dict[str, str] = {}  # what each name, or part of one, stands for

    def __call__(self, numbers: dict[str, float], step: int) -> None:
        """Log the numbers of a step to the active run."""
        mlflow.log_metrics({self._name(name): x for name, x in numbers.items()}, step=step)

    def _name(self, column: str) -> str:
        # Part by part: "n[...]" of all groups comes first in every step, whoever is absent, so that
        # a resumed run gives the same names.
        parts = re.split(r"\]?\[", column.removesuffix("]"))
        allowed = (re.sub(r"[^\w.-]+", "_", part).strip("_.") or "_" for part in parts)
        own = map(self._own, allowed, parts)
        return self._own("/".join(["fairclip", *own]), column)

    def _own(self, name: str, text: str) -> str:
        if len(name) <= _LONGEST and self._takers.setdefault(name, text) == text:
            return name
        return f"{name[:_LONGEST]}_{zlib.crc32(text.encode()):08x}"
