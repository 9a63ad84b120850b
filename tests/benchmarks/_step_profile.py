"""Where the time of an exact step goes: the stages of fairclip between two readings of a clock."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from fairclip import FairClipper, NormCap
from fairclip.gradients._engine import GradientEngine
from fairclip.gradients._group_gradients import GroupGradients
from fairclip.gradients._measure import Measurement
from fairclip.gradients._recorder import CallRecorder
from tests.benchmarks._step_arms import OWN_ARMS, make_step
from tests.benchmarks._step_models import WORKLOADS, make_batch, make_model
from tests.benchmarks._step_results import Setting

STAGES: dict[str, tuple[type[Any], str]] = {
    "rows sorted, window opened": (GradientEngine, "open"),
    "calls recorded": (CallRecorder, "_leave"),
    "rows measured as gradients come": (Measurement, "receive"),
    "window closed": (GradientEngine, "close"),
    "Gramian": (GroupGradients, "gramian"),
    "cap": (NormCap, "__call__"),
    "recombination": (GroupGradients, "recombine_"),
    "clip_grad_, with the last three": (FairClipper, "clip_grad_"),
}
_FIRST, _CHECKED = "exact, 1st step", "exact, 2nd, 4th and 8th step"


def profile(setting: Setting, n_steps: int) -> Iterator[str]:
    """Yield a line for each step and stage: median milliseconds, and as a part of a plain step."""
    workload, device = WORKLOADS[setting.model], torch.device(setting.device)
    batch = make_batch(workload, setting.n_groups, setting.minority, device)
    spent: dict[str, float] = defaultdict(float)
    took: dict[str, list[float]] = {"plain": [], "exact": [], _FIRST: [], _CHECKED: []}
    with _clocks(spent):
        steps = {
            name: make_step(OWN_ARMS[name], make_model(workload, device), batch)
            for name in ("plain", "exact")
        }
        for number in range(8 + n_steps):
            for name, step in steps.items():
                spent.clear()
                start = time.perf_counter()
                step()
                spent[name] = time.perf_counter() - start
                if number >= 8:
                    for stage, seconds in spent.items():
                        took.setdefault(stage, []).append(seconds)
                elif name == "exact" and number in (0, 1, 3, 7):
                    took[_CHECKED if number else _FIRST].append(spent[name])
    plain = median(took["plain"])
    yield f"\n{setting.model}, K={setting.n_groups}, minority {setting.minority}"
    for stage, times in took.items():
        each = median(times)
        yield f"  {stage:<34}{each * 1e3:>9.3f} ms{each / plain:>8.3f}"


@contextmanager
def _clocks(spent: dict[str, float]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, (kind, method) in STAGES.items():
            timed = _timed(getattr(kind, method), name, spent)
            stack.enter_context(patch.object(kind, method, timed))
        yield


def _timed(method: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start

    return timed
