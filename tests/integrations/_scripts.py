"""Scripts before and after they took up fairclip: their lines, and what they train."""

import difflib
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
        gradients: Of each step the gradients of all parameters, as its optimizer met them; empty
            where the optimizer is not one of torch's.
        weights: Of the script's ``model``, after the last step.
    """

    gradients: list[list[Tensor]]
    weights: list[Tensor]


def run(script: str) -> Training:
    """Run a script of the folder."""
    with _gradients() as gradients:
        namespace = runpy.run_path(str(FOLDER / f"{script}.py"))
    return Training(gradients, _weights(namespace["model"]))


def changed_lines(name: str) -> list[str]:
    """Return the lines that a script has after and not before, white space aside.

    Not counted are imports and the data loader that yields groups.
    """
    before, after = (
        [line.strip() for line in (FOLDER / f"{name}_{when}.py").read_text("utf-8").splitlines()]
        for when in ("before", "after")
    )
    added = [line[2:] for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    return [
        line
        for line in added
        if line and not line.startswith(("import ", "from ")) and "with_groups(" not in line
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
