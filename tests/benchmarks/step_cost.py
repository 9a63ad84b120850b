"""What a step with group gradients costs, as a ratio to a plain step.

Run `python -m tests.benchmarks.step_cost`. Plain and fair steps alternate in one process, so that
whatever else the machine does meets both; each ratio is of two neighbours, and the median of the
ratios is printed with their quartiles, for wall time and for CPU time.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import quantiles

import torch
from torch import Tensor, nn

import fairclip

Step = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """A model, a batch and how its rows fall into groups."""

    name: str
    sizes: tuple[int, ...]
    batch_size: int


SETTINGS = (
    Setting("MLP 512-1024-1024-10", (512, 1024, 1024, 10), 512),
    Setting("MLP 100-64-64-2", (100, 64, 64, 2), 256),
)
GROUPS = ((2, 0.2), (8, 0.4))  # K, and the share of the rows outside the largest group


def make_mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Build an MLP with ReLU between its layers."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def make_groups(batch_size: int, n_groups: int, minority: float) -> Tensor:
    """Return codes: group 0 is the largest, the others share the minority evenly."""
    n_minority = round(batch_size * minority)
    codes = torch.zeros(batch_size, dtype=torch.int64)
    codes[:n_minority] = 1 + torch.arange(n_minority) % (n_groups - 1)
    return codes[torch.randperm(batch_size)]


def make_steps(setting: Setting, n_groups: int, minority: float) -> tuple[Step, Step]:
    """Return a plain step and a fair one on the same data."""
    inputs = torch.randn(setting.batch_size, setting.sizes[0])
    targets = torch.randint(setting.sizes[-1], (setting.batch_size,))
    groups = make_groups(setting.batch_size, n_groups, minority)

    def backward(model: nn.Module) -> None:
        nn.functional.cross_entropy(model(inputs), targets).backward()

    plain_model, fair_model = make_mlp(setting.sizes), make_mlp(setting.sizes)
    plain_optimizer = torch.optim.Adam(plain_model.parameters())
    fair_optimizer = torch.optim.Adam(fair_model.parameters())
    clipper = fairclip.FairClipper(
        fair_model,
        fairclip.NormCap(max_ratio=1.0),
        group_counts=torch.bincount(groups) * 100,
    )

    def plain() -> None:
        backward(plain_model)
        plain_optimizer.step()
        plain_optimizer.zero_grad()

    def fair() -> None:
        with clipper.watch(groups):
            backward(fair_model)
        clipper.clip_grad_()
        fair_optimizer.step()
        fair_optimizer.zero_grad()

    return plain, fair


def paired_ratios(plain: Step, fair: Step, n_pairs: int) -> Iterator[tuple[float, float, float]]:
    """Yield plain wall seconds, and the ratios of wall and CPU time, of neighbouring steps."""
    for _ in range(10):
        plain()
        fair()
    for pair in range(n_pairs):
        first, second = (plain, fair) if pair % 2 else (fair, plain)
        times = {}
        for step in (first, second):
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            times[step] = time.perf_counter() - wall, time.process_time() - cpu
        yield times[plain][0], times[fair][0] / times[plain][0], times[fair][1] / times[plain][1]


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=300, help="steps of each kind a line")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.pairs} pairs")
    print(
        f"{'model':<22}{'B':>5}{'K':>3}{'minority':>9}{'plain ms':>10}{'wall':>7} (quartiles)"
        f"{'CPU':>9}"
    )
    for setting in SETTINGS:
        for n_groups, minority in GROUPS:
            steps = make_steps(setting, n_groups, minority)
            plain, wall, cpu = zip(*paired_ratios(*steps, arguments.pairs), strict=True)
            low, median, high = quantiles(wall, n=4)
            print(
                f"{setting.name:<22}{setting.batch_size:>5}{n_groups:>3}{minority:>9.0%}"
                f"{quantiles(plain, n=4)[1] * 1e3:>10.2f}{median:>7.2f} ({low:.2f}-{high:.2f})"
                f"{quantiles(cpu, n=4)[1]:>9.2f}"
            )


if __name__ == "__main__":
    main()
