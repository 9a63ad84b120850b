"""What every diagnosis must satisfy."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fairclip.diagnosis import Diagnosis, Finding
from tests.diagnosis._models import Case


def assert_only(diagnosis: Diagnosis, fault: str, where: str) -> Finding:
    """This fault is found there, with evidence, and no other."""
    assert [finding.fault for finding in diagnosis.findings] == [fault], str(diagnosis)
    (finding,) = diagnosis.findings
    assert where in finding.where, finding
    assert any(character.isdigit() for character in finding.evidence)
    assert finding.remedy.endswith(".")
    assert finding.remedy in str(diagnosis)
    return finding


def assert_nothing(diagnosis: Diagnosis) -> None:
    assert diagnosis.findings == diagnosis.symptoms == (), str(diagnosis)
    assert str(diagnosis).startswith("Nothing was found in ")


def _bits(tensor: Tensor | None) -> tuple[int, bytes] | None:
    """Return the identity and the bits, so that NaN and -0.0 count."""
    if tensor is None:
        return None
    return id(tensor), tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _frozen(tree: Any) -> Any:
    return [_bits(x) if isinstance(x, Tensor) else x for x in pytree.tree_leaves(tree)]


def _state(case: Case) -> dict[str, Any]:
    model, optimizer = case.model, case.optimizer
    state: dict[str, Any] = {
        "parameters": {n: (_bits(p), _bits(p.grad)) for n, p in model.named_parameters()},
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "buffers": {n: _bits(b) for n, b in model.named_buffers()},
        "training": [m.training for m in model.modules()],
        "hooks": [
            dict(hooks)
            for m in model.modules()
            for name, hooks in vars(m).items()
            if name.endswith("hooks")
        ],
        "attributes": [
            {n: str(x) for n, x in vars(m).items() if not n.startswith("_")}
            for m in model.modules()
        ],
        "random": (random.getstate(), torch.get_rng_state().tolist(), random_of_numpy()),
        "batch": _frozen((case.inputs, case.targets)),
        "grad mode": torch.is_grad_enabled(),
    }
    if optimizer is not None:
        state["optimizer"] = {id(p): _frozen(dict(s)) for p, s in optimizer.state.items()}
        state["groups"] = _frozen([dict(group) for group in optimizer.param_groups])
        state["optimizer's own"] = (list(vars(optimizer)), id(optimizer.state))
        state["optimizer's hooks"] = dict(optimizer._optimizer_step_pre_hooks)
    return state


def random_of_numpy() -> list[float]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return [*state[1].tolist(), *state[2:]]


@contextmanager
def assert_left_as_it_was(case: Case) -> Iterator[None]:
    """Nothing that the user owns changes inside, in identity or in any bit."""
    before = _state(case)
    yield
    after = _state(case)
    for name, value in before.items():
        assert after[name] == value, name
