"""Peak memory of an arm, in a process of its own: the growth from before the model is made.

`measure_peaks` starts `python -m tests.benchmarks._step_memory ARM DEVICE MODEL K MINORITY`, which
prints the bytes of the first step (in which fairclip checks itself) and of the steps after it. On a
CPU it is the resident memory, read in a second pass: the first loads all code. Linux only.
"""

import gc
import json
import os
import subprocess
import sys
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import torch

from tests.benchmarks._interleave import Call
from tests.benchmarks._step_arms import OWN_ARMS, make_step
from tests.benchmarks._step_models import WORKLOADS, make_batch, make_model
from tests.benchmarks._step_results import Setting

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Peaks:
    """Bytes above what the process held without the model."""

    first: int
    later: int


def measure_peaks(arm: str, setting: Setting) -> Peaks:
    """Start a process that measures, and wait for it.

    Raises:
        RuntimeError: If it fails; with the end of what it said.
    """
    # Freed blocks go back at once, so that the resident memory follows what is allocated.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-m", __name__, arm, *map(str, astuple(setting))],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return Peaks(**json.loads(done.stdout))


def _growth(make: Call, device: torch.device) -> Peaks:
    """Return the peaks of the first step and of three more."""
    before = _held(device)
    step: Call = make()
    peaks = []
    for n_steps in (1, 3):
        _reset(device)
        for _ in range(n_steps):
            step()
        peaks.append(_peak(device) - before)
    return Peaks(*peaks)


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        _RESET.write_text("5")  # proc(5): sets the peak to what is held now


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _held(device: torch.device) -> int:
    gc.collect()
    return torch.cuda.memory_allocated() if device.type == "cuda" else _status("VmRSS")


def _status(key: str) -> int:
    """Return a figure of this process, in bytes."""
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def _main(arm: str, device: str, model: str, n_groups: str, minority: str) -> None:
    workload, place = WORKLOADS[model], torch.device(device)
    batch = make_batch(workload, int(n_groups), minority, place)

    def make() -> Call:
        return make_step(OWN_ARMS[arm], make_model(workload, place), batch)

    _growth(make, place)
    print(json.dumps(asdict(_growth(make, place))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
