"""What a trace says about a whole run. Shapes: T steps, K groups."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fairclip.comparison._outcome import Figures

# Factors are float32: one this close to 1 has not acted.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Telemetry:
    """Summary of one trace.

    Attributes:
        by_group: One record for each group: means over the steps in which it was present, and
            the number of steps in which it was not.
        cap_active: Share of the steps in which a cap changed a contribution.
        clip_active: Share of the steps in which the clip changed the gradient.
        median_norm: Of the gradients before the clip.
    """

    by_group: list[Figures]
    cap_active: float
    clip_active: float
    median_norm: float


NO_TELEMETRY = Telemetry([], float("nan"), float("nan"), float("nan"))


def summarise(trace: pd.DataFrame) -> Telemetry:
    """Reduce the frame of a :class:`fairclip.Trace` ``(T, ...)``."""
    names = [str(column)[2:-1] for column in trace if str(column).startswith("n[")]
    capped = np.zeros(len(trace), dtype=bool)  # (T,)
    by_group: list[Figures] = []
    for name in names:
        present = trace[f"n[{name}]"] > 0  # (T,)
        seen = trace[present]
        by_group.append(
            {
                "group": name,
                "norm": float(seen[f"norm[{name}]"].mean()),
                "factor": float(seen[f"factor[{name}]"].mean()),
                "share": float(seen[f"share[{name}]"].mean()),
                "steps_absent": int((~present).sum()),
            }
        )
        capped |= present & ((trace[f"factor[{name}]"] - 1).abs() > _TOLERANCE)
    return Telemetry(
        by_group=by_group,
        cap_active=float(capped.mean()),
        clip_active=float((trace["clip_share"] > 0).mean()),
        median_norm=float(trace["norm_capped"].median()),
    )
