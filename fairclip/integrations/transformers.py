"""fairclip in the Trainer of Hugging Face transformers."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairclip._extras import require
from fairclip.clipper import FairClipper
from fairclip.clipping import Norm
from fairclip.exceptions import FairclipWarning
from fairclip.integrations.accelerate import clip_grad_

require("accelerate", "hf")  # without it transformers has a Trainer that cannot be made
_Trainer: Any = require("transformers", "hf").Trainer
_Callback: Any = require("transformers", "hf").TrainerCallback

__all__ = ["FairClipTrainer", "LogCallback"]

_FILE = "clipper.pt"  # beside the optimizer.pt of a checkpoint


class FairClipTrainer(_Trainer):  # type: ignore[misc]  # it has no types
    """A Trainer whose steps are capped, for batches that hold the codes of their rows as "groups".

    It stands before another Trainer class as a mixin:
    ``class FairSFTTrainer(FairClipTrainer, SFTTrainer): pass``.

    The key "groups" is not removed as an unused column and does not reach the model; a data
    collator must keep it. Evaluation and prediction do without. The batches of a step that
    accumulates gradients are capped as one, however the Trainer scales their losses.

    ``max_grad_norm`` of the arguments (1.0 unless it is given) becomes the ``clip`` of a clipper
    without one; beside one it should be 0. The norm that is logged is that of the capped gradient
    before it is clipped. A model that the Trainer compiles cannot be watched.

    Make the clipper with ``batch_dim=0``, where a collator puts the rows: else a batch of as many
    rows as tokens is refused.

    Checkpoints hold the clipper's state, and ``resume_from_checkpoint`` goes on with it, bit for
    bit. Numbers of the step are logged with the loss; ``remove_callback(LogCallback)`` ends
    that.

    Args:
        *args: As of `transformers.Trainer`.
        clipper: Of the model that is passed.
        **kwargs: As of `transformers.Trainer`.

    Raises:
        TypeError: If ``clipper`` is none.
        ValueError: If ``model_init`` is passed, or ``max_grad_norm`` beside the ``clip`` of the
            clipper; in training if a batch has no "groups".
        NotImplementedError: If there are several devices, or ``torch_compile``.

    Example:
        >>> import torch, fairclip
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from transformers import PrinterCallback, TrainingArguments
        >>> from fairclip.integrations.transformers import FairClipTrainer
        >>> codes = [0, 0, 0, 1] * 40
        >>> texts = torch.randint(0, 50, (160, 6))
        >>> rows = [{"input_ids": text, "labels": int(text[0] > 25)} for text in texts]
        >>> config = BertConfig(
        ...     vocab_size=50,
        ...     hidden_size=8,
        ...     num_hidden_layers=1,
        ...     num_attention_heads=2,
        ...     intermediate_size=16,
        ... )
        >>> model = BertForSequenceClassification(config)
        >>> clipper = fairclip.FairClipper(model, group_counts=[120, 40], batch_dim=0)
        >>> trainer = FairClipTrainer(
        ...     model=model,
        ...     args=TrainingArguments("out", max_steps=3, use_cpu=True, disable_tqdm=True),
        ...     train_dataset=fairclip.with_groups(rows, codes),
        ...     clipper=clipper,
        ... )
        >>> trainer.remove_callback(PrinterCallback)
        >>> result = trainer.train()
        >>> len(clipper.trace)
        3
    """

    args: Any

    def __init__(self, *args: Any, clipper: FairClipper, **kwargs: Any) -> None:
        if not isinstance(clipper, FairClipper):
            raise TypeError(f"`clipper` must be a FairClipper, got {type(clipper).__name__}.")
        self.clipper = clipper
        super().__init__(*args, **kwargs)
        if self.model_init is not None:
            raise ValueError(
                "`model_init` makes another model than the clipper's: pass that as `model`."
            )
        if self.args.n_gpu > 1:
            raise NotImplementedError(
                f"fairclip trains on one device for now, and there are {self.args.n_gpu}: set "
                "CUDA_VISIBLE_DEVICES=0."
            )
        if self.args.torch_compile:
            raise NotImplementedError(
                "A model that is compiled cannot be watched: use `torch_compile=False`."
            )
        self._take_over(self.args.max_grad_norm)
        # With one device it multiplies the loss by 1, but in place, which hides its gradient.
        self.args = copy.copy(self.args)
        self.args.average_tokens_across_devices = False
        # The first: it adds to what the others are given.
        self.callback_handler.callbacks.insert(0, LogCallback(clipper))

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Take the forward and backward pass of a batch, inside of `FairClipper.watch`."""
        groups = inputs.pop("groups", None)
        if groups is None:
            raise ValueError(
                'The batch has no "groups": pass `with_groups(dataset, codes)` as '
                "`train_dataset`, and a data collator that keeps them."
            )
        with self.clipper.watch(groups):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def prediction_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Take the forward pass of a batch, without its groups."""
        inputs.pop("groups", None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "groups" not in self._signature_columns:
            self._signature_columns.append("groups")

    def _take_over(self, max_grad_norm: float) -> None:
        """Let the clipper do what the Trainer would do with this threshold."""
        clip = self.clipper.clip
        if not max_grad_norm:
            return
        if clip is None:
            self.clipper.clip = Norm(max_norm=max_grad_norm)
            return
        text = (
            f"`max_grad_norm` is {max_grad_norm}, and the clipper clips by {clip}: pass "
            "`max_grad_norm=0` in the arguments, or no `clip`."
        )
        if max_grad_norm != type(self.args).max_grad_norm:
            raise ValueError(text)
        warnings.warn(f"{text} The clipper's is taken.", FairclipWarning, stacklevel=3)

    def _clip_grad_norm(self, model: nn.Module) -> None:
        """Leave it to `_get_grad_norm`, which is also called with ``max_grad_norm=0``."""

    def _get_grad_norm(self, *_: Any, **__: Any) -> Tensor:
        record = clip_grad_(self.clipper, self.accelerator, self.optimizer)
        assert record is not None  # it is called where the optimizer is about to step
        return record.norm_capped

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            torch.save(self.clipper.state_dict(), Path(output_dir, _FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        file = Path(checkpoint, _FILE)
        if file.exists():
            state = torch.load(file, map_location="cpu", weights_only=True)
            self.clipper.load_state_dict(state)
        else:
            warnings.warn(
                f"{checkpoint} has no {_FILE}: the clipper begins anew. Save with FairClipTrainer.",
                FairclipWarning,
                stacklevel=2,
            )


class LogCallback(_Callback):  # type: ignore[misc]  # it has no types
    """Add the numbers of the last step to what is logged with the loss.

    They are those of `Trace.latest`, as "fairclip/factor[<group>]" and so on. `FairClipTrainer` has
    one. It caps nothing by itself, which no callback can: none sees the groups of a batch, and the
    Trainer has clipped by the time one sees the gradient.

    Args:
        clipper: Whose steps they are.
    """

    def __init__(self, clipper: FairClipper) -> None:
        self._clipper = clipper

    def on_log(self, _args: Any, state: Any, _control: Any, *, logs: Any, **_: Any) -> None:
        """Add to the logs of a training step, and to the history."""
        if "loss" not in logs:  # of an evaluation, or of the end
            return
        numbers = self._clipper.trace.latest().items()
        added = {f"fairclip/{name}": number for name, number in numbers}
        logs.update(added)
        state.log_history[-1].update(added)
