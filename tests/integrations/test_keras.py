import os
import re
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import pytest
import torch
from torch import Tensor, nn

import fairclip.integrations.keras
from fairclip import FairClipper, NormCap
from fairclip.clipping import Mode, Norm, Value
from fairclip.integrations.keras import FairClipMixin

L = keras.layers
COUNTS = [400, 200]
# Keras 3.15 makes numpy arrays of its variables without the keyword that numpy 2 passes.
OF_KERAS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class FairModel(FairClipMixin, keras.Model): ...  # type: ignore[misc]


class FairSequential(FairClipMixin, keras.Sequential): ...  # type: ignore[misc]


def rows(*shape: int, high: int | None = None) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    size = (60, *shape)
    return (
        torch.randn(size, generator=rng)
        if high is None
        else torch.randint(high, size, generator=rng)
    )


TARGETS = (rows(1)[:, 0] > 0).long()
GROUPS = torch.tensor([0, 1, 0]).repeat(20)


def table() -> Any:
    return FairSequential(
        [keras.Input((4,)), L.Dense(8, "relu"), L.LayerNormalization(), L.Dense(2)]
    )


def nested() -> Any:
    inner = keras.Sequential([keras.Input((4,)), L.Dense(8, "tanh")])
    return FairSequential([keras.Input((4,)), inner, L.Dense(2)])


def sequence() -> Any:
    layers = [L.Embedding(10, 6), L.Bidirectional(L.LSTM(5)), L.Dense(2)]
    return FairSequential([keras.Input((5,), dtype="int64"), *layers])


def image() -> Any:
    layers = [L.Conv2D(4, 3, activation="relu"), L.GroupNormalization(2), L.Flatten(), L.Dense(2)]
    return FairSequential([keras.Input((6, 6, 1)), *layers])


def attention() -> Any:
    inputs = keras.Input((5, 6))
    mixed = L.MultiHeadAttention(2, 3)(inputs, inputs)
    return FairModel(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(mixed + inputs)))


def shared() -> Any:
    inputs, twice = keras.Input((4,)), L.Dense(4, "tanh")
    return FairModel(inputs, L.Dense(2)(twice(twice(inputs))))


MODELS: dict[str, tuple[Callable[[], Any], Tensor]] = {
    "table": (table, rows(4)),
    "nested": (nested, rows(4)),
    "sequence": (sequence, rows(5, high=10)),
    "image": (image, rows(6, 6, 1)),
    "attention": (attention, rows(5, 6)),
    "shared": (shared, rows(4)),
}


def compiled(model: Any, **settings: Any) -> Any:
    settings = {"optimizer": keras.optimizers.SGD(0.5)} | settings
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"], **settings)
    return model


def weights(model: Any) -> list[Tensor]:
    return [weight.value.detach().clone() for weight in model.weights]


@pytest.mark.parametrize("name", MODELS)
def test_the_gradients_are_those_of_the_exact_way(name: str) -> None:
    make, inputs = MODELS[name]
    model = compiled(make())
    stages = NormCap.per_step(0.4), Norm(1.0)
    trainable = [weight.value for weight in model.trainable_weights]
    exact = FairClipper(nn.ParameterList(trainable), *stages, group_counts=COUNTS)
    losses = nn.functional.cross_entropy(model(inputs), TARGETS, reduction="none")
    exact.backward(losses, GROUPS)
    assert exact.clip_grad_().factors.min() < 1
    expected = [parameter.grad.clone() for parameter in trainable]

    model.make_clipper(*stages, group_counts=COUNTS, check=True)
    model.train_on_batch({"x": inputs, "groups": GROUPS}, TARGETS)
    for parameter, grad in zip(trainable, expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-6)


def dropping(policy: str = "float32") -> Any:
    inner = [keras.Input((4,)), L.Dense(8, "relu", dtype=policy), L.Dropout(0.5)]
    return FairSequential([keras.Input((4,)), keras.Sequential(inner), L.Dense(2)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_weight": {0: 1.0, 1: 3.0}},
        {"sample_weight": rows(1)[:, 0].abs()},
        {"policy": "mixed_bfloat16"},
    ],
    ids=["plain", "class_weight", "sample_weight", "mixed_bfloat16"],
)
@OF_KERAS
def test_without_a_bound_it_trains_as_keras_does(options: dict[str, Any]) -> None:
    options = dict(options)
    policy = options.pop("policy", "float32")
    options |= {"batch_size": 20, "epochs": 2, "shuffle": False, "verbose": 0}
    found = []
    for is_fair in (False, True):
        keras.utils.set_random_seed(0)
        model = compiled(dropping(policy))
        x: Any = rows(4)
        validation: Any = x, TARGETS
        if is_fair:
            model.make_clipper(NormCap(float("inf")), group_counts=COUNTS)
            x = {"x": x, "groups": GROUPS}
            validation = x, TARGETS
        else:
            model.train_step = keras.Model.train_step.__get__(model)
        history = model.fit(x, TARGETS, validation_data=validation, **options)
        found.append((history.history, weights(model)))
    (logs, trained), (expected_logs, expected) = found
    assert logs == expected_logs
    assert all(map(torch.equal, trained, expected))


def test_a_second_fit_goes_on_with_the_clipper() -> None:
    model = compiled(table())
    clipper = model.make_clipper(group_counts=COUNTS)
    for _ in range(2):
        model.fit({"x": rows(4), "groups": GROUPS}, TARGETS, batch_size=20, verbose=0)
    assert len(clipper.trace) == 6
    assert model.clipper is clipper


def test_accumulation_adds_up_capped_batches() -> None:
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
    model = compiled(table(), optimizer=optimizer)
    model.make_clipper(NormCap.per_step(0.4), Norm(1.0), group_counts=COUNTS)
    (kernel, *_), before = model.trainable_weights, weights(model)
    grads = []
    for scale in (1.0, 2.0):
        model.train_on_batch({"x": scale * rows(4), "groups": GROUPS}, TARGETS)
        grads.append(kernel.value.grad.clone())
    torch.testing.assert_close(before[0] - weights(model)[0], sum(grads) / 2)


def test_a_functional_model_is_wrapped_with_its_weights() -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    fair = compiled(FairModel(model.inputs, model.outputs))
    fair.make_clipper(group_counts=COUNTS)
    before = weights(model)
    fair.train_on_batch({"x": rows(4), "groups": GROUPS}, TARGETS)
    assert not torch.equal(weights(model)[0], before[0])


@OF_KERAS
def test_prediction_takes_the_inputs_with_groups_or_without() -> None:
    model = table()
    with_groups = model.predict({"x": rows(4), "groups": GROUPS}, verbose=0)
    assert (with_groups == model.predict(rows(4), verbose=0)).all()


def test_several_inputs_stay_a_dict() -> None:
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    model = compiled(FairModel(inputs, L.Dense(2)(L.Concatenate()([inputs["a"], inputs["b"]]))))
    model.make_clipper(group_counts=COUNTS)
    model.train_on_batch({"a": rows(4), "b": rows(4), "groups": GROUPS}, TARGETS)
    assert len(model.clipper.trace) == 1


def test_batch_statistics_raise() -> None:
    model = FairSequential([keras.Input((4,)), L.Dense(8), L.BatchNormalization(), L.Dense(2)])
    compiled(model).make_clipper(group_counts=COUNTS)
    with pytest.raises(RuntimeError, match="rows are mixed"):
        model.train_on_batch({"x": rows(4), "groups": GROUPS}, TARGETS)
    model.layers[1].trainable = False
    model.make_clipper(group_counts=COUNTS)
    model.train_on_batch({"x": rows(4), "groups": GROUPS}, TARGETS)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())},
        {"optimizer": keras.optimizers.SGD(loss_scale_factor=8.0)},
    ],
    ids=["dynamic", "fixed"],
)
def test_a_scaled_loss_raises(settings: dict[str, Any]) -> None:
    model = compiled(table(), **settings)
    model.make_clipper(group_counts=COUNTS)
    with pytest.raises(NotImplementedError, match="scales the loss"):
        model.train_on_batch({"x": rows(4), "groups": GROUPS}, TARGETS)


def test_a_compiled_step_raises() -> None:
    model = compiled(table(), jit_compile=True)
    model.make_clipper(group_counts=COUNTS)
    with pytest.raises(NotImplementedError, match="jit_compile=False"):
        model.train_step(({"x": rows(4), "groups": GROUPS}, TARGETS))


def test_what_is_missing_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    model = compiled(table())
    with pytest.raises(ValueError, match="no clipper"):
        model.train_on_batch({"x": rows(4), "groups": GROUPS}, TARGETS)
    model.make_clipper(group_counts=COUNTS)
    with pytest.raises(ValueError, match="must hold the groups"):
        model.train_on_batch(rows(4), TARGETS)
    with pytest.raises(ValueError, match="no weights yet"):
        FairSequential([L.Dense(2)]).make_clipper(group_counts=COUNTS)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="KERAS_BACKEND=torch"):
        model.make_clipper(group_counts=COUNTS)


class Scaled(FairClipMixin, keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.head = L.Dense(2)
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs: Tensor) -> Any:
        return self.head(inputs) * self.scale


def test_a_weight_outside_of_the_layers_raises() -> None:
    model = Scaled()
    model(rows(4))
    with pytest.raises(ValueError, match="scale' is in none of"):
        model.make_clipper(group_counts=COUNTS)


ROWS = re.findall(
    r"^``(\w+)=c`` +``tf\.(.+?)`` +``(.+?)``$", fairclip.integrations.keras.__doc__, re.MULTILINE
)


class TensorFlow:
    """Its functions as their documentation defines them."""

    @staticmethod
    def clip_by_value(t: Tensor, low: float, high: float) -> Tensor:
        return t.where(t > low, torch.tensor(low)).where(t < high, torch.tensor(high))

    @staticmethod
    def clip_by_norm(t: Tensor, clip_norm: float) -> Tensor:
        norm = t.square().sum().sqrt()
        return t * clip_norm / norm if norm > clip_norm else t

    @staticmethod
    def clip_by_global_norm(tensors: list[Tensor], clip_norm: float) -> list[Tensor]:
        norm = sum(t.square().sum() for t in tensors) ** 0.5
        return [t * clip_norm / max(norm, clip_norm) for t in tensors]


def test_the_table_has_every_way_of_keras() -> None:
    assert [argument for argument, _, _ in ROWS] == ["clipvalue", "clipnorm", "global_clipnorm"]


@pytest.mark.parametrize(("argument", "of_tensorflow", "mode"), ROWS)
@pytest.mark.parametrize("c", [0.5, 4.0, 100.0])  # the norms are 5, 1 and 5.1 together
def test_the_rows_of_the_table_are_one_rule(
    argument: str, of_tensorflow: str, mode: str, c: float
) -> None:
    grads = [torch.tensor([[3.0, -4.0]]), torch.tensor([0.6, 0.8])]
    variables = [keras.Variable(torch.zeros_like(grad)) for grad in grads]
    keras.optimizers.SGD(1.0, **{argument: c}).apply(grads, variables)
    of_keras = [-variable.value.detach() for variable in variables]

    names = {"tf": TensorFlow, "c": c, "grads": grads}
    call = f"tf.{of_tensorflow}"
    by_tensorflow = (
        eval(call, names) if "grads" in call else [eval(call, names | {"g": g}) for g in grads]
    )
    parameters = [torch.zeros_like(grad).requires_grad_() for grad in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.clone()
    ours: Mode = eval(mode, {"Norm": Norm, "Value": Value, "c": c})
    ours(parameters)
    found = [parameter.grad for parameter in parameters]
    torch.testing.assert_close(found, of_keras, rtol=3e-6, atol=0)
    torch.testing.assert_close(found, by_tensorflow, rtol=3e-6, atol=0)
