"""skorch: groups in ``X``, the step of any of its nets capped and clipped."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from fairclip._extras import require
from fairclip.clipper import FairClipper

NeuralNet: Any = require("skorch", "skorch").NeuralNet

__all__ = ["FairClipMixin"]


class FairClipMixin(NeuralNet):  # type: ignore[misc]
    """Let a net of skorch cap and clip every training step; put it before the net's own class.

    ``X`` is a dict with the codes as "groups", beside the arguments of the module's ``forward``
    by name; a ``SliceDict`` where scikit-learn splits it. The module does not get the groups. Steps
    of training need them, validation and prediction do not.

    It caps and clips before ``on_grad_computed`` of any callback, so that these see what the
    optimizer sees. The clipper is made anew whenever the module is, and kept by ``partial_fit`` and
    ``warm_start``. It is saved as ``net.save_params(f_clipper=...)``, and with a pickled net.
    Parameters of the criterion are left alone.

    Args:
        *args: As of the net.
        clipper: Makes the clipper of a module, as ``partial(FairClipper, ...)``.
        **kwargs: As of the net.

    Attributes:
        clipper_: The `FairClipper`, once the net is initialized.

    Raises:
        ValueError: From ``fit``, if ``X`` has no groups.

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
        self.clipper_.clip_grad_()
        super().on_grad_computed(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if "clipper_" in state:
            state["clipper_"] = state["clipper_"].state_dict()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        clipper = state.pop("clipper_", None)
        super().__setstate__(state)
        if clipper is not None:
            self._make_clipper().load_state_dict(clipper)

    def _make_clipper(self) -> FairClipper:
        if hasattr(self, "clipper_"):
            self.clipper_.remove()
        self.clipper_ = self.clipper(self.module_)
        return self.clipper_
