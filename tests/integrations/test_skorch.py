import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, Checkpoint
from skorch.dataset import Dataset
from skorch.helper import SliceDict, predefined_split
from skorch.hf import AccelerateMixin
from torch import Tensor, nn

from fairclip import FairClipper, NormCap
from fairclip.clipping import Norm
from fairclip.integrations.skorch import FairClipMixin
from tests.integrations._text import forget_accelerators

_rng = torch.Generator().manual_seed(0)
INPUTS = torch.randn(60, 4, generator=_rng)
TARGETS = (INPUTS[:, 0] > 0).long()
GROUPS = torch.tensor([0, 1, 0]).repeat(20)
X = {"input": INPUTS, "groups": GROUPS}


class FairNet(FairClipMixin, NeuralNetClassifier): ...  # type: ignore[misc]


class FairRegressor(FairClipMixin, NeuralNetRegressor): ...  # type: ignore[misc]


def make_clipper(module: nn.Module, max_ratio: float = 0.4) -> FairClipper:
    return FairClipper(module, NormCap(max_ratio), Norm(0.5), group_counts=[400, 200])


def make_module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def make_net(kind: type = FairNet, **settings: Any) -> Any:
    defaults = {
        "module": make_module,
        "clipper": make_clipper,
        "criterion": nn.CrossEntropyLoss,
        "lr": 0.1,
        "batch_size": 20,
        "max_epochs": 2,
        "train_split": None,
        "verbose": 0,
    }
    return kind(**defaults | settings)


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def plain_loop(n_epochs: int = 2, n_windows: int = 1) -> Tensor:
    """Return the weights of the same loop in plain torch."""
    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    clipper = make_clipper(module)
    batches = list(zip(INPUTS.split(20), TARGETS.split(20), GROUPS.split(20), strict=True))
    for inputs, targets, groups in batches * n_epochs:
        parts = inputs.chunk(n_windows), targets.chunk(n_windows), groups.chunk(n_windows)
        for x, y, codes in zip(*parts, strict=True):
            with clipper.watch(codes):
                (nn.functional.cross_entropy(module(x), y) / n_windows).backward()
        clipper.clip_grad_()
        optimizer.step()
        optimizer.zero_grad()
    return weights(module)


def test_fit_is_the_plain_loop() -> None:
    net = make_net().fit(X, TARGETS)
    torch.testing.assert_close(weights(net.module_), plain_loop())


def test_partial_fit_goes_on_with_the_clipper_and_fit_begins_anew() -> None:
    net = make_net(max_epochs=1).fit(X, TARGETS)
    clipper = net.clipper_
    net.partial_fit(X, TARGETS)
    assert net.clipper_ is clipper
    torch.testing.assert_close(weights(net.module_), plain_loop())
    net.fit(X, TARGETS)
    assert len(net.clipper_.trace) == 3
    torch.testing.assert_close(weights(net.module_), plain_loop(n_epochs=1))


def test_warm_start_goes_on_with_the_clipper() -> None:
    net = make_net(max_epochs=1, warm_start=True).fit(X, TARGETS).fit(X, TARGETS)
    torch.testing.assert_close(weights(net.module_), plain_loop())


def test_a_module_that_is_an_instance_has_one_clipper_at_a_time() -> None:
    module = make_module()
    net = make_net(module=module).fit(X, TARGETS)
    n_hooks = [len(m._forward_hooks) for m in module.modules()]
    net.fit(X, TARGETS)
    assert [len(m._forward_hooks) for m in module.modules()] == n_hooks


def test_a_new_module_has_a_new_clipper() -> None:
    net = make_net(module=nn.Linear, module__in_features=3, module__out_features=2).initialize()
    net.set_params(module__in_features=4)
    net.partial_fit(X, TARGETS)
    assert len(net.clipper_.trace) == 6


@pytest.mark.parametrize("is_warm", [True, False])
def test_another_clipper_takes_effect_at_once(is_warm: bool) -> None:
    net = make_net(clipper=partial(make_clipper, max_ratio=0.1), warm_start=True).initialize()
    hooks = [len(m._forward_hooks) for m in net.module_.modules()]
    net.set_params(clipper=make_clipper)
    assert [len(m._forward_hooks) for m in net.module_.modules()] == hooks
    (net.fit if is_warm else net.partial_fit)(X, TARGETS)
    assert net.clipper_.cap.max_ratio == 0.4
    torch.testing.assert_close(weights(net.module_), plain_loop())


def test_another_clipper_before_the_net_is_initialized() -> None:
    net = make_net(clipper=partial(make_clipper, max_ratio=0.1)).set_params(clipper=make_clipper)
    torch.testing.assert_close(weights(net.fit(X, TARGETS).module_), plain_loop())


class Accumulating(FairNet):
    """Four batches a step, as skorch's documentation does it."""

    def train_step(self, batch: Any, **fit_params: Any) -> Any:
        step = self.train_step_single(batch, **fit_params)
        if len(self.history[-1, "batches"]) % 4 == 0:
            self.clip(batch)
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step

    def clip(self, batch: Any) -> None:
        self.notify(
            "on_grad_computed", named_parameters=self.get_all_learnable_params(), batch=batch
        )

    def get_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().get_loss(*args, **kwargs) / 4


class ClippedByHand(Accumulating):
    def clip(self, _: Any) -> None:
        self.clipper_.clip_grad_()


class Unclipped(Accumulating):
    def clip(self, _: Any) -> None:
        pass


@pytest.mark.parametrize("kind", [Accumulating, ClippedByHand])
def test_accumulation_is_several_windows(kind: type) -> None:
    net = make_net(kind, batch_size=5).fit(X, TARGETS)
    torch.testing.assert_close(weights(net.module_), plain_loop(n_windows=4))


@pytest.mark.parametrize("is_pickled", [True, False])
def test_a_train_step_that_does_not_clip_raises_before_the_first_step(is_pickled: bool) -> None:
    net = make_net(Unclipped, batch_size=15, max_epochs=1).initialize()  # a single step
    if is_pickled:
        net = pickle.loads(pickle.dumps(net))
    with pytest.raises(RuntimeError, match="gradients that were not capped"):
        net.partial_fit(X, TARGETS)
    assert torch.equal(weights(net.module_), weights(make_module()))


def test_batches_that_fill_no_step_are_no_error() -> None:
    net = make_net(Accumulating, batch_size=12, max_epochs=1).fit(X, TARGETS)
    assert len(net.clipper_.trace) == 1
    assert net.clipper_.is_in_step


class Accelerated(FairClipMixin, AccelerateMixin, NeuralNetClassifier): ...  # type: ignore[misc]


class AcceleratedFirst(AccelerateMixin, FairNet): ...  # type: ignore[misc]


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    yield Accelerator(cpu=True)
    forget_accelerators()


@pytest.mark.parametrize("is_scaled", [True, False])
@pytest.mark.parametrize("n_windows", [1, 4])
def test_what_accelerate_accumulates_is_one_step(
    accelerator: Accelerator, n_windows: int, is_scaled: bool
) -> None:
    accelerator.gradient_accumulation_steps = n_windows
    if is_scaled:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)  # what fp16 does
    net = make_net(Accelerated, accelerator=accelerator, device=None, batch_size=20 // n_windows)
    net.fit(X, TARGETS)
    torch.testing.assert_close(weights(net.module_), plain_loop(n_windows=n_windows))
    assert len(net.clipper_.trace) == 6


@pytest.mark.parametrize("n_windows", [1, 4])
def test_a_mixin_that_leaves_out_the_watching_raises(
    accelerator: Accelerator, n_windows: int
) -> None:
    accelerator.gradient_accumulation_steps = n_windows
    net = make_net(AcceleratedFirst, accelerator=accelerator, device=None)
    with pytest.raises(RuntimeError, match="Put the mixin first"):
        net.fit(X, TARGETS)


def test_an_optimizer_that_evaluates_several_times_a_step() -> None:
    net = make_net(
        optimizer=torch.optim.LBFGS, optimizer__max_iter=3, max_epochs=1, batch_size=60
    ).fit(X, TARGETS)
    assert len(net.clipper_.trace) == 3


class Norms(Callback):  # type: ignore[misc]
    def initialize(self) -> "Norms":
        self.norms_: list[float] = []
        return self

    def on_grad_computed(self, *_: Any, named_parameters: Any, **__: Any) -> None:
        grads = [parameter.grad for _, parameter in named_parameters]
        self.norms_.append(float(torch.nn.utils.get_total_norm(grads)))


def test_callbacks_see_what_the_optimizer_does() -> None:
    norms = Norms()
    make_net(callbacks=[norms], clipper=partial(FairClipper, clip=Norm(0.01), n_groups=2)).fit(
        X, TARGETS
    )
    assert norms.norms_ == pytest.approx([0.01] * 6, rel=1e-3)


@pytest.mark.parametrize("has_groups", [True, False])
def test_validation_and_prediction_take_the_inputs_with_groups_or_without(
    has_groups: bool,
) -> None:
    x = X if has_groups else {"input": INPUTS}
    net = make_net(train_split=predefined_split(Dataset(x, TARGETS))).fit(X, TARGETS)
    assert net.history[-1, "valid_acc"] == (net.predict(x) == TARGETS.numpy()).mean()
    assert len(net.clipper_.trace) == 6
    torch.testing.assert_close(weights(net.module_), plain_loop())


def test_regression() -> None:
    net = make_net(FairRegressor, criterion=nn.MSELoss).fit(X, INPUTS[:, :2])
    assert len(net.clipper_.trace) == 6


def test_a_grid_search_chooses_among_clippers() -> None:
    grid = {"clipper": [partial(make_clipper, max_ratio=r) for r in (0.1, 10.0)], "lr": [0.1]}
    x = SliceDict(input=INPUTS.numpy(), groups=GROUPS.numpy())
    search = GridSearchCV(make_net(), grid, cv=2, scoring="neg_log_loss").fit(x, TARGETS.numpy())
    first, second = search.cv_results_["mean_test_score"]
    assert first != second
    assert search.best_estimator_.clipper_.cap.max_ratio in (0.1, 10.0)


def test_a_clone_is_not_fitted() -> None:
    net = make_net().fit(X, TARGETS)
    copy = clone(net)
    assert copy.clipper is not None
    assert not hasattr(copy, "clipper_")
    torch.testing.assert_close(weights(copy.fit(X, TARGETS).module_), plain_loop())


def test_a_pickled_net_goes_on() -> None:
    net = pickle.loads(pickle.dumps(make_net(max_epochs=1).fit(X, TARGETS)))
    net.partial_fit(X, TARGETS)
    assert len(net.clipper_.trace) == 6
    torch.testing.assert_close(weights(net.module_), plain_loop())


def test_a_net_trimmed_for_prediction_is_pickled() -> None:
    net = make_net().fit(X, TARGETS)
    net.trim_for_prediction()
    copy = pickle.loads(pickle.dumps(net))
    assert np.array_equal(copy.predict(X), net.predict(X))


def test_saved_parameters_go_on(tmp_path: Path) -> None:
    files = {
        "f_params": tmp_path / "module.pt",
        "f_optimizer": tmp_path / "optimizer.pt",
        "f_clipper": tmp_path / "clipper.pt",
    }
    make_net(max_epochs=1).fit(X, TARGETS).save_params(**files)
    net = make_net(max_epochs=1).initialize()
    net.load_params(**files)
    net.partial_fit(X, TARGETS)
    torch.testing.assert_close(weights(net.module_), plain_loop())


def test_a_checkpoint_goes_on(tmp_path: Path) -> None:
    def make_checkpoint() -> Checkpoint:
        return Checkpoint(monitor=None, dirname=str(tmp_path), f_clipper="clipper.pt")

    make_net(max_epochs=1, callbacks=[make_checkpoint()]).fit(X, TARGETS)
    net = make_net(max_epochs=1).initialize()
    net.load_params(checkpoint=make_checkpoint())
    net.partial_fit(X, TARGETS)
    assert len(net.clipper_.trace) == 6
    torch.testing.assert_close(weights(net.module_), plain_loop())


@pytest.mark.parametrize("x", [INPUTS, {"input": INPUTS}, np.zeros((60, 4), "float32")])
def test_training_without_groups_raises(x: Any) -> None:
    with pytest.raises(ValueError, match="must hold the groups"):
        make_net().fit(x, TARGETS)
