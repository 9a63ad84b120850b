"""Lightning: a callback with which the Trainer's steps are capped."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

from torch.optim import Optimizer

from fairclip._extras import require
from fairclip.clipper import FairClipper

__all__ = ["FairClipCallback"]

Callback: Any = require("lightning", "lightning").Callback


class FairClipCallback(Callback):  # type: ignore[misc]  # it has no types
    r"""Cap and clip in every step of a ``Trainer``, log what was done, and keep it in checkpoints.

    - Automatic optimization: every training batch is watched with the groups in it, those of one
      accumulation together, and ``clip_grad_`` comes before the optimizer's step.
      ``training_step`` takes the groups out of the batch: ``inputs, targets, _ = batch``. Gradients
      are zeroed before the forward pass already. It may return None, except after other batches
      of the same accumulation. Optimizers that call it again in one step, as L-BFGS does, are
      refused.
    - Manual optimization: open ``with clipper.watch(groups):`` around each forward and
      ``manual_backward``, as in a plain loop; ``clip_grad_`` comes in ``optimizer.step()``, with
      L-BFGS too. Of several optimizers of the clipper's model, the first that steps after a
      backward pass caps the gradients of all; in 16-mixed the model must have one optimizer.
    - Lagged factors: with ``groups=None`` it opens no window, and ``training_step`` gives
      ``clipper.weigh(losses, groups).mean()`` to the backward pass.

    ``Trainer(gradient_clip_val=...)`` clips after the cap, and is not in the trace; a clip of the
    clipper is. Both at once are refused. In 16-mixed, what Lightning has unscaled is not unscaled
    again. Validation, tests and the sanity check are not watched.

    Every ``log_every_n_steps`` the numbers of the last step are logged, as columns of
    ``trace.to_frame()`` with ``fairclip/`` before their names. Reading them waits for the device,
    and no other step does, except for the groups where Lightning has moved them to a GPU: it leaves
    them on the CPU as a NumPy array, which ``on_before_batch_transfer`` can make of them.

    Put it first in ``callbacks``: it takes what an earlier one adds to a gradient in
    ``on_after_backward`` for a part of the largest group's, and a later one sees in
    ``on_before_optimizer_step`` what the optimizer will. Lightning's ``Tuner`` takes all callbacks
    off while it looks for a learning rate or a batch size, so there nothing is capped.

    Checkpoints hold the clipper's state and restore it; in the middle of an accumulation that of
    the last step, with a warning. A Trainer takes one such callback.

    Args:
        clipper: Over the LightningModule, or the part of it that is to be capped.
        groups: Where the codes are in a batch: a place in a tuple or list, or a key of a mapping,
            where any place means "groups". What is there is taken for codes: see that it is not the
            targets. None: ``training_step`` weighs its losses.

    Raises:
        ValueError: In training, if a batch has no groups, or if a clip is given to both the clipper
            and the Trainer.
        RuntimeError: In training, where something above is refused.

    Example:
        >>> import lightning, torch, fairclip
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from fairclip.integrations.lightning import FairClipCallback
        >>> class Task(lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = torch.nn.Linear(3, 1)
        ...
        ...     def training_step(self, batch):
        ...         inputs, targets, _ = batch
        ...         return torch.nn.functional.mse_loss(self.net(inputs), targets)
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> dataset = TensorDataset(torch.randn(80, 3), torch.randn(80, 1))
        >>> loader = DataLoader(fairclip.with_groups(dataset, [0, 1] * 40), batch_size=40)
        >>> task = Task()
        >>> clipper = fairclip.FairClipper(task, group_counts=[40, 40])
        >>> callback = FairClipCallback(clipper)
        >>> trainer = lightning.Trainer(
        ...     max_epochs=1, accelerator="cpu", barebones=True, callbacks=[callback]
        ... )
        >>> trainer.fit(task, loader)
        >>> clipper.trace.to_frame()[["n[0]", "n[1]"]]
           n[0]  n[1]
        0    20    20
        1    20    20
    """

    def __init__(self, clipper: FairClipper, *, groups: int | str | None = -1) -> None:
        self.clipper = clipper
        self.groups = groups
        self._window: AbstractContextManager[None] | None = None
        self._is_due = False  # a backward pass ran since the last `clip_grad_`
        self._is_logged = True  # what the last `clip_grad_` did
        self._logged: tuple[str, ...] = ()

    def on_fit_start(self, trainer: Any, *_: Any) -> None:
        """Refuse two clips."""
        if self.clipper.clip is not None and trainer.gradient_clip_val:
            raise ValueError(
                f"`gradient_clip_val` of the Trainer is {trainer.gradient_clip_val}, and the "
                "clipper has a `clip` too: leave one of them out. Only that of the clipper is in "
                "the trace."
            )

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Open a window."""
        if not pl_module.automatic_optimization:
            return
        if batch_idx % trainer.accumulate_grad_batches == 0:
            # Lightning itself does so only between the forward and the backward pass.
            pl_module.optimizer_zero_grad(trainer.current_epoch, batch_idx, trainer.optimizers[0])
            self._is_due = False
        if self.groups is not None:
            window = self.clipper.watch(_groups_of(batch, self.groups))
            window.__enter__()
            self._window = window

    def on_after_backward(self, _: Any, pl_module: Any) -> None:
        """Close the window."""
        is_watched = pl_module.automatic_optimization and self.groups is not None
        if is_watched and self._window is None:
            raise RuntimeError(
                "A second backward pass in one batch, as optimizers like L-BFGS make, cannot be "
                "watched. Use manual optimization, with `clipper.watch(groups)` in the closure."
            )
        self._is_due = True
        self._leave(failed=False)

    def on_before_optimizer_step(self, trainer: Any, _: Any, optimizer: Optimizer) -> None:
        """Cap and clip."""
        self._skip()
        if self._is_due and self._holds_any(optimizer):
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self.clipper.clip_grad_(scaler, None if scaler is None else optimizer)
            self._is_due = self._is_logged = False

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Log."""
        self._skip()
        if not self._is_logged and trainer._logger_connector.should_update_logs:
            # Lightning would log the last value again of what this step does not have.
            numbers = {name: float("nan") for name in self._logged}
            for name, number in self.clipper.trace.latest().items():
                if name != "norm_clipped" or self.clipper.clip is not None:  # Lightning may clip
                    numbers[f"fairclip/{name}"] = number
            pl_module.log_dict(numbers, on_step=True, on_epoch=False)
            self._is_logged, self._logged = True, tuple(numbers)

    def on_train_epoch_end(self, *_: Any) -> None:
        """Leave nothing open where `on_train_batch_start` of the module ended the epoch."""
        self._leave(failed=True)

    def on_exception(self, *_: Any) -> None:
        """Leave nothing open."""
        self._leave(failed=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the clipper's state."""
        return self.clipper.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the clipper."""
        self.clipper.load_state_dict(state_dict)

    def _skip(self) -> None:
        """Close the window of a batch without a backward pass."""
        if self._window is None:
            return
        self._leave(failed=True)
        if self._is_due:
            raise RuntimeError(
                "`training_step` returned None after other batches of the same accumulation, which "
                "cannot be capped any more. Return a loss, or do not accumulate."
            )

    def _leave(self, *, failed: bool) -> None:
        window, self._window = self._window, None
        if window is not None:
            window.__exit__(RuntimeError if failed else None, None, None)

    def _holds_any(self, optimizer: Optimizer) -> bool:
        own = {id(parameter) for parameter in self.clipper.parameters.values()}
        return any(id(p) in own for group in optimizer.param_groups for p in group["params"])


def _groups_of(batch: Any, place: int | str) -> Any:
    """Return the codes in a batch.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(batch, Mapping) and isinstance(place, int):
        place = "groups"
    if place == -1 and isinstance(batch, tuple | list) and len(batch) == 2:
        raise ValueError(
            "The batch has two parts, whose last are the targets and not the groups, by the look "
            "of it. Put `fairclip.with_groups(dataset, codes)` into the data loader, or say where "
            "they are: `FairClipCallback(clipper, groups=1)`."
        )
    if isinstance(batch, Mapping | tuple | list):
        with suppress(LookupError, TypeError):
            return batch[place]  # type: ignore[index]  # a wrong type is an error here
    found = list(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise ValueError(
        f"The batch has no groups at {place!r}, it is {found}. Put `fairclip.with_groups(dataset, "
        "codes)` into the data loader, or say where they are: `FairClipCallback(clipper, "
        "groups=...)`."
    )
