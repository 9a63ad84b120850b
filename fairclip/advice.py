"""Whether a clip or a cap does anything, read from a trace."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairclip.trace import Trace, changed

__all__ = ["RULE", "Advice", "advise"]

_RARELY = 0.01  # of the steps: what acts in fewer changes the training by chance only
_NEARLY_ALWAYS = 0.9  # of the steps: there the threshold sets the length of the step
_LITTLE = 0.1  # of the norm: a clip to less is a tenth of the learning rate, or less, in disguise
_QUANTILE = 0.9  # a threshold that one gradient in ten would exceed
_TOLERANCE = 1e-6  # about what float32 resolves: a factor closer to 1 did not act
_FEW = 20  # steps: a median of fewer says little
_SHOWN = 10  # steps
_BY_DESIGN = ("Normalize", "Centralize", "Weights")  # they act in every step, or are to

RULE = (
    f"placebo: it acted in less than {_RARELY:.0%} of the steps. stalling: in {_NEARLY_ALWAYS:.0%} "
    f"or more of them, and it left {_LITTLE:.0%} or less of the norm in the median. active: "
    f"anything else. Below {_FEW} steps there is no verdict, nor for a mode that is to act in "
    f"every step. A proposed threshold is the {_QUANTILE:.0%} quantile of the norms before."
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
        nonfinite: One row for each step that was not finite: ``step``, ``what`` ("gradient", or
            "update" where the gradient was finite), ``parameter`` (the first one, in the order of
            the model), ``groups``, ``rank``.
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
                f"Steps that were not finite: {len(self.nonfinite)}; the first is step "
                f"{first['step']}, its {first['what']}{place}{groups}{rank}. Lower the learning "
                "rate or the loss scale, or look for a division or a logarithm of 0 there."
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
        TypeError: If it is neither.
        ValueError: If it has no steps, or the frame is not a trace's.

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
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"`trace` must be a Trace or its frame, got {type(trace).__name__}.")
    if "step" not in frame:
        raise ValueError("`trace` must have the column step: pass what `to_frame()` returned.")
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
    start = f"norm_before[{stage}]["
    scopes = [c.removeprefix(start).removesuffix("]") for c in frame.columns if c.startswith(start)]
    # One threshold for each scope: none of them is for the norm of the whole.
    yield _row(frame, stage, "all", f"[{stage}]", has_threshold=not scopes)
    for scope in scopes:
        yield _row(frame, stage, scope, f"[{stage}][{scope}]", has_threshold=True)


def _row(
    frame: pd.DataFrame, stage: str, scope: str, place: str, *, has_threshold: bool
) -> dict[str, object]:
    mode = stage.partition("#")[0]
    before, after = frame[f"norm_before{place}"], frame[f"norm_after{place}"]
    finite = np.isfinite(before)  # a stage, or a scope's gradient, need not be there in every step
    before, after = before[finite], after[finite]
    kept = float((after / before.where(before > 0)).median())
    acted = float(changed(before, after).mean())
    threshold = float(frame[f"threshold{place}"][finite].median())
    cosine = frame.get(f"cosine{place}", pd.Series(dtype=float))
    has_verdict = mode not in _BY_DESIGN and not np.isposinf(threshold)
    return {
        "stage": stage,
        "scope": scope,
        "n_steps": len(before),
        "acted": acted,
        "threshold": threshold,
        "norm_before": float(before.median()),
        "kept": kept,
        "cosine": float(cosine.median()),
        "verdict": _verdict(len(before), acted, kept) if has_verdict else "",
        "proposed": float(before.quantile(_QUANTILE))
        if has_threshold and mode in ("Norm", "Update", "Momentum")
        else np.nan,
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
        "verdict": _verdict(len(frame), acted, kept),
    }
    yield from groups


def _verdict(n_steps: int, acted: float, kept: float) -> str:
    if n_steps < _FEW:
        return "too few steps"
    if acted < _RARELY:
        return "placebo"
    return "stalling" if acted >= _NEARLY_ALWAYS and kept <= _LITTLE else "active"


def _nonfinite(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the steps whose gradient, or only whose update, was not finite."""
    of_gradient = frame["nonfinite"] if "nonfinite" in frame else frame["step"] < 0
    of_update = frame["step"] < 0
    if "share_clipped[Update]" in frame:
        of_update = frame["share_clipped[Update]"].notna() & ~np.isfinite(frame["update_norm"])
    chosen = frame[of_gradient | of_update]
    flags = [c for c in frame.columns if c.startswith("nonfinite[")]
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if initialized else pd.NA
    return pd.DataFrame(
        {
            "step": chosen["step"],
            "what": np.where(of_gradient[chosen.index], "gradient", "update"),
            "parameter": chosen.get("first_nonfinite", pd.Series("", chosen.index)).fillna(""),
            "groups": [
                ", ".join(f.removeprefix("nonfinite[").removesuffix("]") for f in flags if row[f])
                for row in chosen.to_dict("records")
            ],
            "rank": [rank] * len(chosen),
        }
    )


def _sentence(row: Mapping[Any, Any]) -> str:
    where = "" if row["scope"] == "all" else f" in {row['scope']}"
    is_known = row["acted"] and not pd.isna(row["kept"])  # a TargetCap measures no norm
    kept = f", leaving {row['kept']:.0%} of the norm in the median" if is_known else ""
    acted = f"it acted in {row['acted']:.1%} of the steps{kept}" if row["n_steps"] else "no steps"
    text = f"{row['stage']}{where}: {row['verdict']}; {acted}."
    if row["verdict"] in ("placebo", "stalling") and not pd.isna(row["proposed"]):
        text += (
            f" Its threshold was {row['threshold']:.3g} and the norms {row['norm_before']:.3g} in "
            f"the median; {row['proposed']:.3g} would act in one step of ten."
        )
    return text
