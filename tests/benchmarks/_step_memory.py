"""Peak memory of an arm: the most that its tensors hold at once, from the making of the model on.

On a CPU that is what the profiler says of torch's allocator; numpy's arrays, all of them small, are
not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks._step_arms import Arm, make_step
from tests.benchmarks._step_models import WORKLOADS, make_batch, make_model
from tests.benchmarks._step_results import Setting

T = TypeVar("T")
_N_FIRST, _N_LATER = 4, 3  # steps 1, 2, 4 and 8 are checked


@dataclass(frozen=True)
class Peaks:
    """Bytes in the first four steps, in which fairclip checks itself, and in three more."""

    first: int
    later: int


def measure_peaks(arm: Arm, setting: Setting) -> Peaks:
    """Run an arm for some steps."""
    workload, device = WORKLOADS[setting.model], torch.device(setting.device)
    batch = make_batch(workload, setting.n_groups, setting.minority, device)
    meter = _OfCuda() if device.type == "cuda" else _OfHost()
    step, _ = meter.measure(lambda: make_step(arm, make_model(workload, device), batch))
    peaks = [meter.measure(step)[1] for _ in range(_N_FIRST + _N_LATER)]
    return Peaks(max(peaks[:_N_FIRST]), max(peaks[_N_FIRST:]))


class _OfHost:
    def __init__(self) -> None:
        self._held = 0

    def measure(self, run: Callable[[], T]) -> tuple[T, int]:
        """Return what a function returns, and the peak while it ran."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = run()
        assert profiler.profiler is not None
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        peak = self._held
        for event in sorted(events, key=lambda e: e.start_ns()):
            self._held += event.nbytes()  # negative where memory is freed
            peak = max(peak, self._held)
        return result, peak


class _OfCuda:
    def __init__(self) -> None:
        self._before = torch.cuda.memory_allocated()

    def measure(self, run: Callable[[], T]) -> tuple[T, int]:
        """Return what a function returns, and the peak while it ran."""
        torch.cuda.reset_peak_memory_stats()
        result = run()
        return result, torch.cuda.max_memory_allocated() - self._before
