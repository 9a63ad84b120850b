"""What each clipping mode costs, as a ratio to torch's `clip_grad_norm_` on the same gradients.

Run `python -m tests.benchmarks.clip_cost`. Calls alternate in one process, and every one meets
gradients that are above its threshold. Each ratio is of neighbours; printed are medians with their
quartiles, for wall time and for CPU time. "record" is the time over that of the same operation on
the gradients alone, in torch's own calls: what measuring and reporting cost.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from pytorch_optimizer.optimizer.agc import agc
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from fairclip.clipping import (
    Centralize,
    Chain,
    ClipRecord,
    Linear,
    MeanStd,
    Mode,
    Momentum,
    Norm,
    Normalize,
    Percentile,
    Scheduled,
    Smoothness,
    Unitwise,
    Update,
    Value,
    Weights,
    ZScore,
)
from fairclip.clipping._mode import OptimizerMode
from tests.benchmarks._interleave import Call, Seconds, Spread, seconds


@dataclass(frozen=True)
class Setting:
    """How many gradients, of which shape; whether the bars are for them."""

    n_tensors: int
    shape: tuple[int, ...]
    has_bars: bool


SETTINGS = (
    Setting(10, (100, 100), has_bars=False),
    Setting(1_000, (32, 32), has_bars=True),
    Setting(1_000, (100, 100), has_bars=False),
)


@dataclass(frozen=True)
class Row:
    """A mode, the same operation without a record, and what it must not exceed.

    `parts` are called in turn; only those marked True are timed. `reset` undoes what they did.
    """

    name: str
    parts: tuple[tuple[Call, bool], ...]
    bare: Call
    reset: Call
    bar: float | None = 1.5
    peer: Call | None = None


class Work:
    """Parameters and everything that is to be done with them."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        self.parameters = [
            nn.Parameter(torch.randn(setting.shape)) for _ in range(setting.n_tensors)
        ]
        for parameter in self.parameters:
            parameter.grad = torch.randn(setting.shape)
        self.gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.0, momentum=0.9)
        self.optimizer.step()
        self.buffers = [self.optimizer.state[p]["momentum_buffer"] for p in self.parameters]
        self.weights = [p.detach() for p in self.parameters]
        self.all = [*self.gradients, *self.buffers, *self.weights]
        self.kept = [tensor.clone() for tensor in self.all]

    def reset(self) -> None:
        torch._foreach_copy_(self.gradients, self.kept[: len(self.gradients)])

    def reset_all(self) -> None:
        torch._foreach_copy_(self.all, self.kept)

    def torch(self) -> None:
        clip_grad_norm_(self.parameters, 1.0)

    def rows(self) -> Iterator[Row]:
        """Yield every mode, with a threshold that is below what it measures."""
        yield self._row("Value", Value(0.5), self._clip_value)
        yield self._row("Norm", Norm(1.0), self.torch, bar=1.1)
        yield self._row("Norm, tensor", Norm(0.1, scope="tensor"), self._scale_each)
        yield self._row("Unitwise", Unitwise(0.01), self._agc_in_place, peer=self._agc)
        yield self._row("Percentile", Percentile(upper=1.0), self.torch)
        yield self._row("MeanStd", MeanStd(2.0, upper=1.0), self.torch)
        yield self._row("ZScore", ZScore(upper=1.0), self.torch)
        yield self._row("Normalize", Normalize(1.0), self.torch)
        yield self._row("Centralize", Centralize(), self._centralize)
        scheduled = Scheduled(Norm(1.0), Linear(0.5, 1.0, total_iters=100))
        yield self._row("Scheduled", scheduled, self.torch)
        yield self._row("Smoothness", Smoothness(upper=1.0), self._norm_of_change)
        yield self._row("Chain of 1", Chain(Norm(1.0)), self.torch)
        both = Chain(Value(0.5), Norm(1.0))
        yield self._row("Chain of 2", both, self._value_and_norm, bar=None)
        yield self._optimizer_row("Momentum", Momentum(1.0), self._scale_buffers)
        yield self._optimizer_row("Update", Update(1.0), self._shorten)
        yield self._optimizer_row("Weights", Weights(0.5), self._clamp_weights)

    def _row(self, name: str, mode: Mode, bare: Call, **bars: Any) -> Row:
        state = mode.init(self.parameters)

        def call() -> ClipRecord:
            return mode(self.parameters, state)

        self.reset()
        assert float(call().share_clipped) > 0, name
        return Row(name, ((call, True),), bare, self.reset, **bars)

    def _optimizer_row(self, name: str, mode: OptimizerMode, bare: Call) -> Row:
        """Return the parts before and after a step that is not timed."""
        kept: list[Any] = []

        def before() -> None:
            kept[:] = [mode.before(list(self.parameters))]

        @torch.no_grad()
        def after() -> ClipRecord:
            return mode.after(self.optimizer, list(self.parameters), *kept)

        for part in (self.reset_all, before, self._step):
            part()
        assert float(after().share_clipped) > 0, name
        parts = ((before, True), (self._step, False), (after, True))
        return Row(name, parts, bare, self.reset_all)

    def _step(self) -> None:
        torch._foreach_add_(self.weights, self.gradients, alpha=-0.1)

    def _clip_value(self) -> None:
        clip_grad_value_(self.parameters, 0.5)

    def _scale_each(self) -> None:
        norms = torch.stack(torch._foreach_norm(self.gradients))
        torch._foreach_mul_(self.gradients, (0.1 / norms).clamp(max=1.0).unbind())

    def _agc(self) -> None:
        for parameter, gradient in zip(self.weights, self.gradients, strict=True):
            agc(parameter, gradient)

    def _agc_in_place(self) -> None:
        for parameter, gradient in zip(self.weights, self.gradients, strict=True):
            limit = 0.01 * torch.linalg.vector_norm(parameter, dim=1, keepdim=True).clamp(min=1e-3)
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((limit / norm).clamp(max=1.0))

    def _centralize(self) -> None:
        for gradient in self.gradients:
            gradient.sub_(gradient.mean(dim=1, keepdim=True))

    def _norm_of_change(self) -> None:
        changes = torch._foreach_sub(self.gradients, self.kept[: len(self.gradients)])
        torch._foreach_norm(changes)
        self.torch()

    def _value_and_norm(self) -> None:
        self._clip_value()
        self.torch()

    def _scale_buffers(self) -> None:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self.buffers)))
        torch._foreach_mul_(self.buffers, (1.0 / norm).clamp(max=1.0))

    def _shorten(self) -> None:
        old = [weight.clone() for weight in self.weights]
        updates = torch._foreach_sub(self.weights, old)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(updates)))
        torch._foreach_lerp_(old, self.weights, [1.0 / (norm + 1.0)] * len(old))
        torch._foreach_copy_(self.weights, old)

    def _clamp_weights(self) -> None:
        torch._foreach_clamp_min_(self.weights, -0.5)
        torch._foreach_clamp_max_(self.weights, 0.5)


def measure(work: Work, row: Row, n_pairs: int) -> dict[str, list[Seconds]]:
    """Return the times of torch's norm, the mode, the bare operation and the peer, in turn."""
    calls = {"torch": ((work.torch, True),), "mode": row.parts, "bare": ((row.bare, True),)}
    if row.peer is not None:
        calls["peer"] = ((row.peer, True),)
    times: dict[str, list[Seconds]] = {name: [] for name in calls}
    names = list(calls)
    for pair in range(n_pairs + 3):  # the first three warm up
        for name in names if pair % 2 else reversed(names):
            row.reset()
            took = seconds(*calls[name])
            if pair >= 3:
                times[name].append(took)
    return times


def ratios(a: list[Seconds], b: list[Seconds], kind: str) -> list[float]:
    """Return the ratios of neighbours, of "wall" or "cpu" time."""
    return [getattr(x, kind) / getattr(y, kind) for x, y in zip(a, b, strict=True)]


def line(row: Row, setting: Setting, times: dict[str, list[Seconds]]) -> str:
    """Return what is printed of a mode."""
    wall = Spread.of(ratios(times["mode"], times["torch"], "wall"))
    cpu = median(ratios(times["mode"], times["torch"], "cpu"))
    record = median(ratios(times["mode"], times["bare"], "wall"))
    bar, note = row.bar, ""
    if row.peer is not None:
        bar, note = median(ratios(times["peer"], times["torch"], "wall")), " (agc)"
    verdict = "-"
    if setting.has_bars and bar is not None:
        verdict = f"<= {bar:.2f}{note}: {'met' if wall.median <= bar else 'MISSED'}"
    milliseconds = median(took.wall for took in times["mode"]) * 1e3
    return (
        f"{row.name:<14}{milliseconds:>9.2f}{wall.median:>8.2f} ({wall.q1:.2f}-{wall.q3:.2f})"
        f"{cpu:>8.2f}{record:>9.2f}   {verdict}"
    )


def main() -> None:
    """Print one line a mode and setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=60, help="calls of each kind a line")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.pairs} pairs")
    for setting in SETTINGS:
        work = Work(setting)
        print(f"\n{setting.n_tensors:,} gradients of {setting.shape}")
        print(f"{'mode':<14}{'ms':>9}{'wall':>8} (quartiles){'CPU':>9}{'record':>9}   bar")
        for row in work.rows():
            print(line(row, setting, measure(work, row, arguments.pairs)), flush=True)


if __name__ == "__main__":
    main()
