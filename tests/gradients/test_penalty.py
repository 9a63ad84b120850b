"""What comes from no row, and gradients of gradients."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine
from tests.gradients._exactness import K, Losses, assert_exact, assert_next_step, seeded
from tests.gradients._inputs import CODES, IDS, VECTORS, classify_means, cross_entropy
from tests.gradients._oracle import group_gradients, norm
from tests.gradients._real_models import bert
from tests.gradients._wrappers import mlp


def dropping() -> nn.Module:
    return mlp(nn.Dropout(0.4))


def of_weights(model: nn.Module, layer: str = "") -> Tensor:
    named = model.named_parameters()
    return 0.1 * torch.stack([p.square().sum() for n, p in named if n.startswith(layer)]).sum()


def of_texts(model: nn.Module, step: int) -> Tensor:
    return cross_entropy(model(IDS[step]).logits)


@pytest.mark.parametrize("check", ["first", True])
@pytest.mark.parametrize(
    ("build", "losses", "layer"),
    [
        (mlp, classify_means, ""),
        (dropping, classify_means, ""),
        (bert, of_texts, "classifier.weight"),
    ],
)
def test_a_penalty_is_named_once_and_belongs_to_no_row(
    build: Callable[[], nn.Module], losses: Losses, layer: str, check: Any
) -> None:
    (message,) = assert_exact(
        seeded(build), losses, CODES, penalty=lambda m, _: of_weights(m, layer), check=check
    )
    assert f"'{layer or '0.weight'}'" in message
    assert "penalty" in message


@pytest.mark.parametrize("build", [mlp, dropping])
def test_a_later_penalty_is_found_by_checking_every_step(build: Callable[[], nn.Module]) -> None:
    def later(model: nn.Module, step: int) -> Tensor:
        return of_weights(model) if step >= 2 else torch.zeros(())

    (message,) = assert_exact(seeded(build), classify_means, CODES, penalty=later, check=True)
    assert "penalty" in message


@pytest.mark.parametrize(("check", "last"), [(False, 0), ("first", 2)])
def test_a_penalty_that_is_not_looked_for_goes_to_the_largest_group(check: Any, last: int) -> None:
    model = seeded(mlp)
    engine = GradientEngine(model, K, check=check)
    for step in range(last + 1):
        parts = group_gradients(model, classify_means(model, step), CODES[0], K)
        with engine.watch(CODES[0]):  # warnings are errors
            loss = classify_means(model, step).mean()
            (loss + of_weights(model) if step == last else loss).backward()
        found = np.diagonal(np.asarray(engine.collect().gramian())) ** 0.5
        model.zero_grad()
    expected = [norm(part) for part in parts]
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-9)
    assert abs(found[0] - expected[0]) > 1e-3


def test_a_penalty_on_the_input_gradient_is_refused_and_has_a_way_out() -> None:
    """Differentiating a backward pass: rows cause more than the layers' calls show."""

    def penalised(model: nn.Module, step: int) -> Tensor:
        inputs = VECTORS[step].mean(1).requires_grad_()
        logits = model(inputs)
        (slope,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return cross_entropy(logits) + 0.1 * slope.square().sum(1)

    model = seeded(mlp)
    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match="create_graph"), engine.watch(CODES[0]):
        penalised(model, 0).mean().backward()
    assert_next_step(engine, model, penalised, CODES[0], how="backward")


def test_an_input_gradient_that_is_only_looked_at_changes_nothing() -> None:
    def looked_at(model: nn.Module, step: int) -> Tensor:
        inputs = VECTORS[step].mean(1).requires_grad_()
        logits = model(inputs)
        torch.autograd.grad(logits.sum(), inputs, retain_graph=True)  # a saliency map, say
        return cross_entropy(logits)

    assert not assert_exact(seeded(mlp), looked_at, CODES)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_penalty_that_begins_later_is_found_in_step_2_4_and_so_on(first: int) -> None:
    model = seeded(mlp)
    engine = GradientEngine(model, K)
    found = []
    for step in range(4):
        model.zero_grad()
        with warnings.catch_warnings(record=True) as caught, engine.watch(CODES[0]):
            warnings.simplefilter("always", FairclipWarning)
            loss = classify_means(model, 0).mean()
            (loss + of_weights(model) if step >= first else loss).backward()
        engine.collect()
        found += [step] * len(caught)
    assert found == [1 if first == 1 else 3]
