"""Trainings that fail without clipping and pass with it: the cells of a notebook.

How a run diverges differs between processors, so the bounds leave room.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "07_seven_trainings.ipynb"

pytestmark = pytest.mark.slow

Demonstration = Callable[[str], dict[str, Any]]


@pytest.fixture
def demonstrate() -> Iterator[Demonstration]:
    """Run the setup cells and one demonstration, and return the variables that they leave."""

    def run(name: str) -> dict[str, Any]:
        variables: dict[str, Any] = {"__name__": "notebook"}
        for tag in ("setup", f"demo:{name}"):
            for source in cells(tag):
                exec(compile(source, f"{NOTEBOOK.name}, {tag}", "exec"), variables)
        return variables

    n_threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(n_threads)
    torch.set_flush_denormal(False)


def cells(tag: str) -> list[str]:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    sources = [cell.source for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    assert sources, f"no cell has the tag {tag!r}"
    return sources


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_recurrent_language_models(name: str, demonstrate: Demonstration) -> None:
    found = demonstrate(name)
    runs, chance = found["runs"], found["CHANCE"]
    assert not runs["no clipping"].final_loss < chance  # nan fails to train, too
    assert runs["Norm(0.25)"].final_loss < chance - 0.5
    assert runs["Norm(0.25)"].final_loss < runs["no clipping, lr / 10"].final_loss


def test_attention_with_a_sharp_softmax(demonstrate: Demonstration) -> None:
    found = demonstrate("attention")
    assert not math.isfinite(found["runs"]["no clipping"].losses[-1])
    assert found["accuracy"]["Norm(1.0)"] > 0.6
    assert found["accuracy"]["no clipping, usual softmax"] > 0.6


def test_an_exponential_loss(demonstrate: Demonstration) -> None:
    found = demonstrate("exponential")
    assert not math.isfinite(found["runs"]["no clipping"].losses[-1])
    assert found["accuracy"]["Norm(0.1)"] > found["majority"] + 0.06
    assert found["accuracy"]["no clipping, logistic loss"] > found["majority"] + 0.06


def test_a_gan_swings_less_and_a_tight_clip_costs_modes(demonstrate: Demonstration) -> None:
    gans = demonstrate("gan")["gans"]
    unclipped, clipped, tight = gans["no clipping"], gans["Norm(0.3)"], gans["Norm(0.01)"]
    assert clipped.amplitude < unclipped.amplitude / 2
    assert clipped.coverage > unclipped.coverage + 1
    assert tight.amplitude < unclipped.amplitude / 2
    assert tight.coverage < clipped.coverage - 3


def test_a_very_deep_residual_net(demonstrate: Demonstration) -> None:
    found = demonstrate("deep")
    assert not math.isfinite(found["runs"]["no clipping"].losses[-1])
    assert found["accuracy"]["Norm(0.5)"] > 0.6
    assert found["accuracy"]["no clipping, branches / 100"] > 0.6


def test_noisy_labels_at_a_high_learning_rate(demonstrate: Demonstration) -> None:
    found = demonstrate("noise")
    at_the_highest = {arm: values[-1] for arm, values in found["accuracy"].items()}
    assert at_the_highest["clean", math.inf] > 0.7
    assert at_the_highest["noisy", math.inf] < 0.5
    assert at_the_highest["noisy", 1.0] < 0.5
    assert at_the_highest["noisy", 0.1] > 0.7
