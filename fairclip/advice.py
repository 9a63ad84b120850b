"""Whether a clip or a cap does anything, read from a trace."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairclip.trace import Trace

__all__ = ["RULE", "Advice", "advise"]

_RARELY = 0.01  # of the steps: what acts in fewer changes the training by chance only
_NEARLY_ALWAYS = 0.9  # of the steps: there the threshold sets the length of the step
_LITTLE = 0.1  # of the norm: a clip to less is a tenth of the learning rate, or less, in disguise
_QUANTILE = 0.9  # a threshold that one gradient in ten would exceed
_TOLERANCE = 1e-6  # about what float32 resolves
_SHOWN = 10  # steps

RULE = (
    f"placebo: it acted in less than {_RARELY:.0%} of the steps. stalling: in {_NEARLY_ALWAYS:.0%} "
    f"or more of them, and it left {_LITTLE:.0%} or less of the norm in the median. active: "
    f"anything else. A proposed threshold is the {_QUANTILE:.0%} quantile of the norms before."
)


@dataclass(frozen=True, slots=True)
class Advice:
    """What `advise` found; printing it tells all.

    Attributes:
        stages: One row for each stage and each of its scopes: ``stage`` (the cap, then the modes of
            the clip, in order), ``scope`` ("all", a layer, a tensor, for the cap a group),
            ``n_steps``, ``acted`` (share of the steps), the medians ``threshold``, ``norm_before``,
            ``kept`` (norm after over norm before) and ``cosine`` (between before and after),
            ``verdict`` and ``proposed``; NaN where a stage has no such number.
        nonfinite: One row for each step with a gradient that was not finite: ``step``,
            ``parameter`` (the first one, in the order of the model), ``groups``, ``rank``.
        rule: What the verdicts mean.
    """

    stages: pd.DataFrame
    nonfinite: pd.DataFrame
    rule: str = RULE

    def sentences(self) -> list[str]:
        """Return one sentence for each stage and scope with a verdict, then one on non-finite."""
        lines = [_sentence(row) for row in self.stages.to_dict("records") if row["verdict"]]
        if len(self.nonfinite):
            first = self.nonfinite.iloc[0]
            groups = f", group {first['groups']}" if first["groups"] else ""
            rank = "" if pd.isna(first["rank"]) else f", rank {first['rank']}"
            place = f" in {first['parameter']}" if first["parameter"] else ""
            lines.append(
                f"The gradient was not finite in {len(self.nonfinite)} steps, first in step "
                f"{first['step']}{place}{groups}{rank}: lower the learning rate or the loss scale, "
                "or look for a division or a logarithm of 0 there."
            )
        return lines

    def __str__(self) -> str:
        lines = self.sentences() or ["No stage acts on the gradient in this trace."]
        if len(self.nonfinite) > 1:
            lines += ["", self.nonfinite.head(_SHOWN).to_string(index=False)]
        return "\n".join([*lines, "", self.rule])


def advise(trace: Trace | pd.DataFrame) -> Advice:
    """Say of each stage how often it acted, whether that matters, and which threshold would.

    A clip that never fires is a comfort only, and one that always fires is another learning rate:
    with SGD every step has the length learning rate × threshold, and Adam cancels a constant factor
    altogether. The numbers are of the steps that the trace keeps.

    Args:
        trace: A trace, or what its ``to_frame()`` returned.

    Raises:
        ValueError: If the trace has no steps.

    Example:
        >>> import torch, fairclip
        >>> model, trace = torch.nn.Linear(2, 1), fairclip.Trace()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> handle = fairclip.clipping.Norm(max_norm=1e6).attach(optimizer, trace=trace)
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(4, 2)).sum().backward()
        ...     optimizer.step()
        >>> fairclip.advise(trace).stages["verdict"].item()
        'placebo'
    """
    frame = trace.to_frame() if isinstance(trace, Trace) else trace
    if not len(frame):
        raise ValueError("`trace` has no steps yet: advise after some training.")
    rows = [*_of_cap(frame), *(row for stage in _stages(frame) for row in _of_stage(frame, stage))]
    columns = ["stage", "scope", "n_steps", "acted", "threshold", "norm_before", "kept", "cosine"]
    stages = pd.DataFrame(rows, columns=[*columns, "verdict", "proposed"])
    return Advice(stages, _nonfinite(frame))


def _stages(frame: pd.DataFrame) -> list[str]:
    found = (re.fullmatch(r"share_clipped\[(.+)\]", column) for column in frame.columns)
    return [match[1] for match in found if match]


def _of_stage(frame: pd.DataFrame, stage: str) -> Iterator[dict[str, object]]:
    """Yield a row for the stage, and one for each scope of it."""
    share = frame[f"share_clipped[{stage}]"]
    yield _row(frame, stage, "all", f"[{stage}]", share > 0)
    start = f"norm_before[{stage}]["
    for column in [c for c in frame.columns if c.startswith(start)]:
        scope = column.removeprefix(start).removesuffix("]")
        place = f"[{stage}][{scope}]"
        kept = frame[f"norm_after{place}"] / frame[column]
        yield _row(frame, stage, scope, place, (kept - 1).abs() > _TOLERANCE)


def _row(
    frame: pd.DataFrame, stage: str, scope: str, place: str, acted: "pd.Series[bool]"
) -> dict[str, object]:
    before = frame[f"norm_before{place}"]
    there = before.notna()  # a stage, or a scope's gradient, need not be there in every step
    before, acted = before[there], acted[there]
    kept = float((frame[f"norm_after{place}"][there] / before.where(before > 0)).median())
    finite = before[np.isfinite(before)]
    has_threshold = stage.partition("#")[0] == "Norm" and len(finite)
    cosine = frame.get(f"cosine{place}", pd.Series(dtype=float))
    return {
        "stage": stage,
        "scope": scope,
        "n_steps": len(before),
        "acted": float(acted.mean()),
        "threshold": float(frame[f"threshold{place}"][there].median()),
        "norm_before": float(finite.median()),
        "kept": kept,
        "cosine": float(cosine.median()),
        "verdict": _verdict(float(acted.mean()), kept),
        "proposed": float(finite.quantile(_QUANTILE)) if has_threshold else np.nan,
    }


def _of_cap(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield a row for the cap, and one for each group that it acted on."""
    if "cosine[cap]" not in frame:
        return
    names = [c.removeprefix("n[").removesuffix("]") for c in frame.columns if c.startswith("n[")]
    capped = pd.DataFrame(index=frame.index)
    groups = []
    for name in names:
        own = [c for c in frame.columns if c.startswith("factor[") and c.endswith(f"[{name}]")]
        own = own or [f"factor[{name}]"]
        factor = frame[own].mean(axis=1)
        there = frame[f"n[{name}]"] > 0
        capped[name] = there & ((frame[own] - 1).abs() > _TOLERANCE).any(axis=1)
        if capped[name].any():
            groups.append(
                {
                    "stage": "cap",
                    "scope": name,
                    "n_steps": int(there.sum()),
                    "acted": float(capped[name][there].mean()),
                    "norm_before": float(frame[f"norm[{name}]"].median()),
                    "kept": float(factor[there].median()),
                    "verdict": "",
                }
            )
    kept = float((frame["norm_capped"] / frame["norm_uncapped"]).median())
    acted = float(capped.any(axis=1).mean())
    yield {
        "stage": "cap",
        "scope": "all",
        "n_steps": len(frame),
        "acted": acted,
        "norm_before": float(frame["norm_uncapped"].median()),
        "kept": kept,
        "cosine": float(frame["cosine[cap]"].median()),
        "verdict": _verdict(acted, kept),
    }
    yield from groups


def _verdict(acted: float, kept: float) -> str:
    if not acted >= _RARELY:
        return "placebo"
    return "stalling" if acted >= _NEARLY_ALWAYS and kept <= _LITTLE else "active"


def _nonfinite(frame: pd.DataFrame) -> pd.DataFrame:
    chosen = frame[frame["nonfinite"]] if "nonfinite" in frame else frame[:0]
    flags = [c for c in frame.columns if c.startswith("nonfinite[")]
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if initialized else pd.NA
    return pd.DataFrame(
        {
            "step": chosen["step"],
            "parameter": chosen["first_nonfinite"] if len(chosen) else "",
            "groups": [
                ", ".join(f.removeprefix("nonfinite[").removesuffix("]") for f in flags if row[f])
                for row in chosen.to_dict("records")
            ],
            "rank": [rank] * len(chosen),
        }
    )


def _sentence(row: Mapping[Any, Any]) -> str:
    where = "" if row["scope"] == "all" else f" in {row['scope']}"
    kept = f", leaving {row['kept']:.0%} of the norm in the median" if row["acted"] else ""
    acted = f"it acted in {row['acted']:.1%} of the steps{kept}"
    text = f"{row['stage']}{where}: {row['verdict']}; {acted}."
    if row["verdict"] != "active" and not pd.isna(row["proposed"]):
        text += (
            f" Its threshold was {row['threshold']:.3g} and the norms {row['norm_before']:.3g} in "
            f"the median; {row['proposed']:.3g} would act in one step of ten."
        )
    return text
