"""Keras 3 on the torch backend, and how TensorFlow's and Keras' clipping is written here."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from fairclip._extras import require
from fairclip.clipper import FairClipper

keras = require("keras", "keras")
if keras.backend.backend() != "torch":
    raise ImportError(
        f"fairclip needs Keras' torch backend, got {keras.backend.backend()!r}: set the environment "
        "variable KERAS_BACKEND=torch before Keras is imported."
    )

__all__ = ["FairClipMixin"]


class FairClipMixin:
    clipper: FairClipper | None = None

    def make_clipper(self, *args: Any, **options: Any) -> FairClipper:
        layers = torch.nn.ModuleList(_layers(self))
        held = {id(parameter) for parameter in layers.parameters()}
        for v in self.trainable_variables: assert id(v.value) in held
        self.clipper = FairClipper(layers, *args, **options)
        return self.clipper

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model with all of ``x`` but the groups."""
        return super().__call__(_inputs(x), *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take a step of `fit` or ``train_on_batch``."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        clipper, groups, inputs = self.clipper, x["groups"], _inputs(x)
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
            if metric.name == "loss":
                metric.update_state(loss.detach(), sample_weight=len(groups))
        return self.compute_metrics(inputs, y, y_pred, sample_weight=sample_weight)

def _layers(model):
    for l in model.layers:
        if isinstance(l, keras.Model): yield from _layers(l)
        else: yield l

def _inputs(x):
    if not (isinstance(x, Mapping) and "groups" in x): return x
    inputs = {k: v for k, v in x.items() if k != "groups"}
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs
