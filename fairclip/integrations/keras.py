"""Keras 3 on the torch backend, and what Keras' and TensorFlow's clipping is called here.

With a threshold ``c`` for the gradient ``g`` of one variable, or ``grads`` of all:

===================== ==================================== ====================================
Keras' optimizers     TensorFlow                           here
===================== ==================================== ====================================
``clipvalue=c``       ``tf.clip_by_value(g, -c, c)``       ``Value(max_value=c)``
``clipnorm=c``        ``tf.clip_by_norm(g, c)``            ``Norm(max_norm=c, scope="tensor")``
``global_clipnorm=c`` ``tf.clip_by_global_norm(grads, c)`` ``Norm(max_norm=c)``
===================== ==================================== ====================================

What they divide by the norm, `fairclip.clipping.Norm` divides by the norm plus 1e-6, as torch does.
An optimizer that clips by itself goes on doing so, after the cap; only what `FairClipper` clips is
in its records.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fairclip._extras import require
from fairclip.clipper import FairClipper

# Not Keras' own, which rewrites the bases of its classes when a functional model is made, and whose
# import takes the backend that is set by then.
Model: Any = object

__all__ = ["FairClipMixin"]


class FairClipMixin(Model):  # type: ignore[misc]
    """Let a Keras model cap and clip every training step; put it before the model's own class.

    After ``class FairModel(FairClipMixin, keras.Model): ...``, a functional model that exists
    becomes ``FairModel(model.inputs, model.outputs)``, with the same weights.

    `make_clipper` comes before ``fit``. ``x`` is then a dict with the codes as "groups"; what is
    beside them goes to the model, a single input by itself. Training needs the groups, validation
    and prediction do not. Sample and class weights, shuffling and validation splits are as ever.

    Each layer of ``model.layers`` is measured on its own, by running it again on the rows of the
    groups, which must keep their order from layer to layer. A layer with weights that mixes rows or
    draws random numbers in training raises, as ``BatchNormalization`` and recurrent dropout do;
    ``Dropout``, normalization by layer or group and frozen batch statistics are no obstacle.
    ``gradient_accumulation_steps`` adds up batches that were capped one by one. What Keras saves
    holds no clipper: keep ``model.clipper.state_dict()`` beside it.

    Attributes:
        clipper: The `FairClipper`, None before `make_clipper`.

    Raises:
        ValueError: From ``fit``, if there is no clipper or ``x`` has no groups.
        NotImplementedError: From ``fit``, if the optimizer scales the loss, as under
            "mixed_float16", or if the step is compiled.

    Example:
        >>> import os
        >>> os.environ["KERAS_BACKEND"] = "torch"
        >>> import keras, torch
        >>> from fairclip.clipping import Norm
        >>> from fairclip.integrations.keras import FairClipMixin
        >>> class FairSequential(FairClipMixin, keras.Sequential): ...
        >>> model = FairSequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> clipper = model.make_clipper(clip=Norm(max_norm=1.0), group_counts=[160, 40])
        >>> inputs = torch.randn(200, 3)
        >>> codes = torch.tensor([0, 0, 0, 0, 1]).repeat(40)
        >>> x, y = {"inputs": inputs, "groups": codes}, inputs.sum(1, keepdim=True)
        >>> history = model.fit(x, y, batch_size=40, epochs=2, verbose=0)
        >>> len(clipper.trace)
        10
    """

    clipper: FairClipper | None = None

    def make_clipper(self, *args: Any, **options: Any) -> FairClipper:
        """Make ``clipper``.

        Args:
            *args: As of `FairClipper`, after the model.
            **options: As of `FairClipper`.

        Raises:
            ImportError: If Keras runs on another backend than torch.
            ValueError: If the model is not built, or a trainable weight is in none of its layers.
        """
        keras = require("keras", "keras")
        if (backend := keras.backend.backend()) != "torch":
            raise ImportError(
                f"Keras runs on {backend}, fairclip on torch: set the environment variable "
                "KERAS_BACKEND=torch before Keras is imported."
            )
        if not self.built:
            raise ValueError("The model has no weights yet: call it on a batch before.")
        # Not the model: `fit` replaces what it holds its weights with, and layers cost less.
        layers = nn.ModuleList(_layers(self, keras.Model))
        held = {id(parameter) for layer in layers for parameter in layer.parameters()}
        for variable in self.trainable_variables:
            if id(variable.value) not in held:
                raise ValueError(
                    f"Weight '{variable.path}' is in none of `model.layers`, so its gradient could "
                    "not be measured: move it into a layer."
                )
        self.clipper = FairClipper(layers, *args, **options)
        return self.clipper

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model without the groups."""
        return super().__call__(_inputs(x), *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take a step of ``fit`` or ``train_on_batch``."""
        x, y, sample_weight = require("keras", "keras").utils.unpack_x_y_sample_weight(data)
        clipper, groups, inputs = self._ready_clipper(), _groups(x), _inputs(x)
        self.zero_grad()
        with clipper.watch(groups):
            y_pred = self(inputs, training=True)
            loss = self.compute_loss(x=inputs, y=y, y_pred=y_pred, sample_weight=sample_weight)
            loss.backward()
        clipper.clip_grad_()
        variables = self.trainable_variables
        with torch.no_grad():
            self.optimizer.apply([variable.value.grad for variable in variables], variables)
        for metric in self.metrics:
            if metric.name == "loss":  # the mean over rows
                metric.update_state(loss.detach(), sample_weight=len(groups))
        logs: dict[str, Any] = self.compute_metrics(inputs, y, y_pred, sample_weight=sample_weight)
        return logs

    def _ready_clipper(self) -> FairClipper:
        if self.clipper is None:
            raise ValueError("There is no clipper: call `model.make_clipper(...)` before `fit`.")
        if self.jit_compile:
            raise NotImplementedError(
                "A compiled step cannot be watched: compile the model with `jit_compile=False`."
            )
        if self.optimizer.scale_loss(1.0) != 1.0:
            raise NotImplementedError(
                "The optimizer scales the loss, and with it what the clipper measures: use the "
                "policy 'mixed_bfloat16', and no `loss_scale_factor`."
            )
        return self.clipper


def _layers(model: Any, kind: type) -> Iterator[Any]:
    """Yield the layers of a model and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, kind):
            yield from _layers(layer, kind)
        else:
            yield layer


def _groups(x: Any) -> torch.Tensor:
    if not isinstance(x, Mapping) or "groups" not in x:
        raise ValueError(
            "`x` must hold the groups: pass a dict with the codes as 'groups', beside the inputs."
        )
    groups: torch.Tensor = x["groups"]
    return groups


def _inputs(x: Any) -> Any:
    """Return what the model takes: ``x`` without the groups."""
    if not isinstance(x, Mapping) or "groups" not in x:
        return x
    inputs = {name: value for name, value in x.items() if name != "groups"}
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))
