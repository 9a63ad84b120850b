"""Scripts before and after they took up fairclip: their lines, and what they train."""

import difflib
import re
import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

FOLDER = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class Training:
    """What a script leaves.

    Attributes:
        gradients: Of each step the gradients of all parameters, as its optimizer left them; empty
            where the optimizer is not one of torch's.
        weights: Of the script's ``model``, after the last step; empty where it leaves none.
    """

    gradients: list[list[Tensor]]
    weights: list[Tensor]


def run(script: str) -> Training:
    """Run a script of the folder."""
    with _gradients() as gradients:
        namespace = runpy.run_path(str(FOLDER / f"{script}.py"))
    model = namespace.get("model")
    return Training(gradients, [] if model is None else _weights(model))


def diff(name: str) -> list[str]:
    """Return the lines that a script lost, with "-", and won, with "+", white space aside.

    Imports are left out, and the line in which the data get their groups.
    """
    before, after = (
        [line.strip() for line in (FOLDER / f"{name}_{when}.py").read_text("utf-8").splitlines()]
        for when in ("before", "after")
    )
    free = {re.sub(r"with_groups\((\w+), codes\)", r"\1", line) for line in after}
    free -= {*after}
    changes = [line for line in difflib.ndiff(before, after) if line[0] in "-+" and line[2:]]
    return [
        line
        for line in changes
        if line[2:] not in free and not re.match(r"import |from |.*with_groups\(", line[2:])
    ]


@contextmanager
def _gradients() -> Iterator[list[list[Tensor]]]:
    steps: list[list[Tensor]] = []

    def note(optimizer: Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        steps.append([p.grad.clone() for p in parameters])

    handle = register_optimizer_step_post_hook(note)
    try:
        yield steps
    finally:
        handle.remove()


def _weights(model: Any) -> list[Tensor]:
    if hasattr(model, "get_weights"):  # Keras, whose kernels are (in, out)
        return [torch.tensor(weight.value.detach().numpy().T) for weight in model.weights]
    return [parameter.detach().clone() for parameter in model.parameters()]


def largest_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference between two lists of tensors, relative to the largest norm."""
    assert [a.shape for a in found] == [b.shape for b in expected]
    scale = max(float(torch.linalg.vector_norm(tensor)) for tensor in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / scale
