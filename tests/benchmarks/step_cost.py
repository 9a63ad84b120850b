"""What a step with group gradients costs, as a ratio to a plain step.

Run `python -m tests.benchmarks.step_cost`. The arms take turns in one process, so that whatever
else the machine does meets all of them. Each ratio is to the plain step of the same round; printed
are their median and quartiles for wall time, and the median for the CPU time of all threads.

plain          forward, backward and Adam
exact          FairClipper.watch and clip_grad_
lagged         FairClipper.weigh and clip_grad_, measuring in every tenth step
floor          the plain step and the kernels that any exact method needs: see _step_floor.py
autograd loop  one torch.autograd.grad a group over one forward pass
TorchJD        the Jacobian of the groups' losses, combined by the same cap
UPGrad         the same, combined by UPGrad
Opacus hooks   per-sample gradients, added up by group
Opacus ghost   per-sample norms and a second backward pass, no group norms: see _step_rivals.py

The arms from the autograd loop on do the same whosever the rows are: they are measured at one share
of the minority, 40 %, as is peak memory.
The results go to step_cost.csv, where they replace those of the same setting.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from itertools import product

import torch
from tqdm import tqdm

from tests.benchmarks._step_arms import OWN_ARMS, Arm, autograd_loop
from tests.benchmarks._step_floor import floor
from tests.benchmarks._step_measure import measure
from tests.benchmarks._step_models import WORKLOADS
from tests.benchmarks._step_profile import profile
from tests.benchmarks._step_results import MEASURED_ONCE, Row, Setting, merge, read
from tests.benchmarks._step_rivals import (
    opacus_ghost,
    opacus_hooks,
    torchjd_cap,
    torchjd_upgrad,
    without_attention,
)
from tests.benchmarks._step_table import table
from tests.benchmarks._step_targets import verdicts

ARMS = {
    **OWN_ARMS,
    "floor": Arm(floor),
    "autograd loop": Arm(autograd_loop),
    "TorchJD": Arm(torchjd_cap),
    "UPGrad": Arm(torchjd_upgrad),
    "Opacus hooks": Arm(opacus_hooks, prepare=without_attention),
    "Opacus ghost": Arm(opacus_ghost, prepare=without_attention),
}
BY_MINORITY = (*OWN_ARMS, "floor")


def line(row: Row) -> str:
    """Return what is printed of an arm."""
    if row.wall is None:
        return f"  {row.arm:<15}-  {row.note}"
    text = f"  {row.arm:<15}{row.wall:>7.2f} ({row.wall_q1:.2f}-{row.wall_q3:.2f}){row.cpu:>8.2f}"
    if row.memory is not None:
        text += f"   peak memory {row.memory:.2f}, in the first steps {row.first_memory:.2f}"
    return f"{text}   {row.note}".rstrip()


def settings(arguments: argparse.Namespace) -> list[Setting]:
    """Return what the command line asks for."""
    return [
        Setting(arguments.device, model, int(n_groups), minority)
        for model, n_groups, minority in product(
            arguments.models, arguments.groups, arguments.minority
        )
    ]


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure all settings and print a block for each."""
    rows = []
    for setting in (bar := tqdm(settings(arguments), unit="setting")):
        bar.set_description(f"{setting.model}, K={setting.n_groups}, {setting.minority}")
        names = arguments.arms or (ARMS if setting.minority == MEASURED_ONCE else BY_MINORITY)
        arms = {name: ARMS[name] for name in dict.fromkeys(("plain", *names))}
        measured = list(measure(setting, arms, arguments.seconds, arguments.rounds))
        bar.write("\n".join(block(measured)), file=sys.stdout)
        rows += measured
        if not arguments.quick:
            merge(measured)
    return rows


def block(rows: list[Row]) -> Iterator[str]:
    """Yield what is printed of a setting."""
    of = rows[0]
    yield (
        f"\n{of.model}, B={of.batch_size}, K={of.n_groups}, minority {of.minority}: "
        f"plain step {of.plain_ms:.2f} ms"
    )
    yield f"  {'arm':<15}{'wall':>7} (quartiles){'CPU':>9}"
    yield from map(line, rows)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu; cuda adds the large models")
    parser.add_argument("--models", type=listed, help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--groups", type=listed, default="2,4,8,16", help="numbers of groups")
    parser.add_argument("--minority", type=listed, default="20,40,balanced", help="percentages")
    parser.add_argument("--arms", type=listed, help=f"of {', '.join(ARMS)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="for a setting, about")
    parser.add_argument("--rounds", type=int, help="instead of seconds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--profile", action="store_true", help="print where the time of an exact step goes"
    )
    parser.add_argument("--quick", action="store_true", help="a trial: K=2, few rounds, no CSV")
    parser.add_argument("--table", action="store_true", help="print the README's table of the CSV")
    parser.add_argument("--targets", action="store_true", help="print which targets the CSV meets")
    arguments = parser.parse_args()
    if arguments.models is None:
        is_cuda = arguments.device == "cuda"
        arguments.models = [m for m, w in WORKLOADS.items() if is_cuda or not w.on_cuda]
    if arguments.quick:
        arguments.groups, arguments.minority, arguments.rounds = ["2"], ["40"], 3
    for given, known in ((arguments.models, WORKLOADS), (arguments.arms or [], ARMS)):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return arguments


def listed(text: str) -> list[str]:
    """Split an argument."""
    return text.split(",")


def main() -> None:
    """Measure, or print what was measured."""
    arguments = parse()
    if arguments.table:
        print("\n".join(table(read())))
        return
    if arguments.targets:
        rows = read()
    elif arguments.profile:
        torch.set_num_threads(arguments.threads)
        for setting in settings(arguments):
            print("\n".join(profile(setting, arguments.rounds or 50)))
        return
    else:
        torch.set_num_threads(arguments.threads)
        warnings.filterwarnings("ignore", "Full backward hook is firing")  # Opacus's hooks
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        rows = run(arguments)
    print("\n".join(["", *verdicts(rows)]))


if __name__ == "__main__":
    main()
