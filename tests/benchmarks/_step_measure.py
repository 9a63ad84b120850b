"""One setting, measured: the arms take turns, and every one gets a row."""

import gc
from collections.abc import Iterator, Mapping
from importlib.metadata import version

import torch

from tests.benchmarks._interleave import Spread, Turns, interleave, middle
from tests.benchmarks._step_arms import Arm, make_step
from tests.benchmarks._step_memory import measure_peaks
from tests.benchmarks._step_models import WORKLOADS, make_batch, make_model
from tests.benchmarks._step_results import MEASURED_ONCE, Row, Setting

MEASURED_BY = ("torch", "fairclip", "torchjd", "opacus")


def measure(
    setting: Setting, arms: Mapping[str, Arm], budget: float, n_rounds: int | None
) -> Iterator[Row]:
    """Time the arms, of which the first is the plain step, and yield a row for each."""
    turns, notes = _warm(setting, arms)
    plain, *_ = turns.values()
    interleave([*turns.values()], budget, n_rounds)
    floor = _spread(turns.get("floor"), plain, "wall")
    memory = _memory(setting, arms) if "exact" in turns else (None, None)
    for name in arms:
        wall, cpu = (_spread(turns.get(name), plain, kind) for kind in ("wall", "cpu"))
        yield Row(
            device=setting.device,
            model=setting.model,
            n_groups=setting.n_groups,
            minority=setting.minority,
            arm=name,
            batch_size=WORKLOADS[setting.model].batch_size,
            plain_ms=middle(plain) * 1e3,
            wall=wall.median if wall else None,
            wall_q1=wall.q1 if wall else None,
            wall_q3=wall.q3 if wall else None,
            cpu=cpu.median if cpu else None,
            floor=floor.median if floor else None,
            memory=memory[1] if name == "exact" else None,
            first_memory=memory[0] if name == "exact" else None,
            n_turns=len(turns[name].times) if name in turns else 0,
            note=notes.get(name, ""),
            threads=torch.get_num_threads(),
            versions=", ".join(f"{package} {version(package)}" for package in MEASURED_BY),
        )


def _warm(setting: Setting, arms: Mapping[str, Arm]) -> tuple[dict[str, Turns], dict[str, str]]:
    """Return the arms that run, and why the others do not."""
    workload, device = WORKLOADS[setting.model], torch.device(setting.device)
    batch = make_batch(workload, setting.n_groups, setting.minority, device)
    turns: dict[str, Turns] = {}
    notes: dict[str, str] = {}
    gc.collect()  # the hooks of the setting before are in cycles with their models
    for name, arm in arms.items():
        try:
            step = make_step(arm, make_model(workload, device), batch)
            turns[name] = Turns.warm(step, arm.period, arm.n_first)
        except Exception as error:  # whatever a library says of a model that it does not take
            if not turns:
                raise
            notes[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return turns, notes


def _spread(turns: Turns | None, plain: Turns, kind: str) -> Spread | None:
    return Spread.of(turns.ratios(plain, kind)) if turns else None


def _memory(setting: Setting, arms: Mapping[str, Arm]) -> tuple[float | None, float | None]:
    """Return the ratios of the peaks of the first steps and of those after them."""
    if setting.minority != MEASURED_ONCE:
        return None, None
    plain, exact = (measure_peaks(arms[name], setting) for name in ("plain", "exact"))
    return exact.first / plain.first, exact.later / plain.later
