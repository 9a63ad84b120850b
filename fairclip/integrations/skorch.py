"""skorch: groups in ``X``, the step of any of its nets capped and clipped."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from fairclip._extras import require
from fairclip._optimizers import torch_optimizer
from fairclip.clipper import FairClipper
from fairclip.integrations.accelerate import clip_grad_

NeuralNet: Any = require("skorch", "skorch").NeuralNet

__all__ = ["FairClipMixin"]


class FairClipMixin(NeuralNet):  # type: ignore[misc]
    """Let a net of skorch cap and clip every training step; put it before the net's own class.

    ``X`` is a dict with the codes as "groups", beside the arguments of the module's ``forward``
    by name; a ``SliceDict`` where scikit-learn splits it. The module does not get the groups. Steps
    of training need them, validation and prediction do not.

    It caps and clips before ``on_grad_computed`` of any callback, so that these see what the
    optimizer sees. A ``train_step`` of your own notifies of "on_grad_computed" as skorch's does, or
    calls ``self.clipper_.clip_grad_()``, before the optimizer's step. Parameters of the criterion
    are left alone.

    The clipper is made anew whenever the module is and by ``set_params(clipper=...)``, and kept by
    ``partial_fit`` and ``warm_start``. It is saved with a pickled net, and where a file is named
    for it: ``net.save_params(f_clipper=...)``, ``Checkpoint(f_clipper="clipper.pt")``.

    With skorch's ``AccelerateMixin`` put this one first. The batches that an ``Accelerator``
    accumulates are then one step, capped as a whole; without this mixin skorch zeroes the gradients
    before the last of them and steps on that one alone.

    Args:
        *args: As of the net.
        clipper: Makes the clipper of a module, as ``partial(FairClipper, ...)``.
        **kwargs: As of the net.

    Attributes:
        clipper_: The `FairClipper`, once the net is initialized.

    Raises:
        ValueError: From ``fit``, if ``X`` has no groups.
        RuntimeError: From ``fit``, if the optimizer steps on what was not capped, or the classes
            are in another order.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from skorch import NeuralNetClassifier
        >>> from fairclip import FairClipper
        >>> from fairclip.clipping import Norm
        >>> from fairclip.integrations.skorch import FairClipMixin
        >>> class FairNet(FairClipMixin, NeuralNetClassifier): ...
        >>> inputs = torch.randn(200, 3)
        >>> targets = (inputs[:, 0] > 0).long()
        >>> codes = torch.tensor([0, 0, 0, 0, 1]).repeat(40)
        >>> net = FairNet(
        ...     torch.nn.Linear,
        ...     module__in_features=3,
        ...     module__out_features=2,
        ...     criterion=torch.nn.CrossEntropyLoss,
        ...     clipper=partial(FairClipper, clip=Norm(max_norm=1.0), group_counts=[160, 40]),
        ...     batch_size=40,
        ...     max_epochs=2,
        ...     train_split=None,
        ...     verbose=0,
        ... )
        >>> net = net.fit({"input": inputs, "groups": codes}, targets)
        >>> len(net.clipper_.trace)
        10
        >>> net.predict(inputs[:5]).shape
        (5,)
    """

    clipper_: FairClipper

    def __init__(
        self, *args: Any, clipper: Callable[[nn.Module], FairClipper], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.clipper = clipper

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the clipper too, since skorch does this for every new module."""
        super().initialize_optimizer(*args, **kwargs)
        self._watch_optimizers()
        self._make_clipper()
        return self

    def set_params(self, **kwargs: Any) -> Any:
        """Make the clipper anew where another is set."""
        super().set_params(**kwargs)
        if "clipper" in kwargs and self.initialized_:
            self._make_clipper()
        return self

    def infer(self, x: Any, **fit_params: Any) -> Any:
        """Call the module without the groups."""
        if isinstance(x, Mapping):
            x = {name: value for name, value in x.items() if name != "groups"}
        return super().infer(x, **fit_params)

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Watch the forward and backward pass of a batch."""
        inputs = batch[0]
        if not isinstance(inputs, Mapping) or "groups" not in inputs:
            raise ValueError(
                "`X` must hold the groups: pass a dict with the codes as 'groups', beside the "
                "arguments of the module's `forward` by name."
            )
        with self.clipper_.watch(inputs["groups"]):
            step: dict[str, Tensor] = super().train_step_single(batch, **fit_params)
        return step

    def on_grad_computed(self, *args: Any, **kwargs: Any) -> None:
        """Cap and clip; skorch calls this after the last backward pass of a step."""
        if not self.clipper_.is_in_step:
            raise RuntimeError(
                "No batch was watched: a class before `FairClipMixin` has a `train_step_single` "
                "that does not call it. Put the mixin first: `class FairNet(FairClipMixin, "
                "AccelerateMixin, NeuralNetClassifier)`."
            )
        if self._is_accelerated:
            clip_grad_(self.clipper_, self.accelerator, self._torch_optimizers)
        else:
            self.clipper_.clip_grad_()
        super().on_grad_computed(*args, **kwargs)

    def _zero_grad_optimizer(self, *args: Any, **kwargs: Any) -> None:
        """Zero before a step's first batch, where Accelerate's optimizers do before its last."""
        if not self._is_accelerated:
            super()._zero_grad_optimizer(*args, **kwargs)
        elif not self.clipper_.is_in_step:
            for optimizer in self._torch_optimizers:
                optimizer.zero_grad(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if "clipper_" in state:
            state["clipper_"] = state["clipper_"].state_dict()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        clipper = state.pop("clipper_", None)
        super().__setstate__(state)
        if clipper is not None:
            self._watch_optimizers()
            self._make_clipper().load_state_dict(clipper)

    @property
    def _is_accelerated(self) -> bool:
        return getattr(self, "accelerator", None) is not None

    @property
    def _torch_optimizers(self) -> list[Optimizer]:
        """The optimizers, of which a net that was trimmed for prediction has none."""
        optimizers = (getattr(self, f"{name}_") for name in self._optimizers)
        return [torch_optimizer(optimizer) for optimizer in optimizers if optimizer is not None]

    def _watch_optimizers(self) -> None:
        """Raise before a step on gradients that were not capped."""

        def check(*_: Any) -> None:
            if self.clipper_.is_in_step:
                raise RuntimeError(
                    "The optimizer is about to step on gradients that were not capped. In a "
                    "`train_step` of your own call `self.clipper_.clip_grad_()` before it; a net "
                    "of AccelerateMixin fits again only with `unwrap_after_train=True`."
                )

        for optimizer in self._torch_optimizers:
            optimizer.register_step_pre_hook(check)

    def _make_clipper(self) -> FairClipper:
        if hasattr(self, "clipper_"):
            self.clipper_.remove()
        self.clipper_ = self.clipper(self.module_)
        return self.clipper_
