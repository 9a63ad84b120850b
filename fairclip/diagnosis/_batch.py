"""One batch, copied, as the model takes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree


def is_packed(leaf: Any) -> bool:
    """Say whether it is a PackedSequence, a tuple that is to be kept in one piece."""
    return isinstance(leaf, PackedSequence)


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors in it, the data of packed sequences among them."""
    leaves = [x.data if is_packed(x) else x for x in pytree.tree_leaves(tree, is_leaf=is_packed)]
    return [x for x in leaves if isinstance(x, Tensor)]


def detached(tree: Any) -> Any:
    """Return copies of the tensors in it that no graph reaches."""

    def copy(leaf: Any) -> Any:
        if is_packed(leaf):
            return leaf._replace(data=leaf.data.detach().clone())
        return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(copy, tree, is_leaf=is_packed)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model and its loss take; a model that changes its input changes a copy."""

    inputs: Any
    targets: Any
    n_rows: int

    @classmethod
    def of(cls, batch: Any) -> "Batch":
        """Check and keep it.

        Raises:
            TypeError: If it is not a pair, or there is no tensor in the inputs.
            ValueError: If it has no rows, or inputs and targets have other numbers of rows.
        """
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            length = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise TypeError(
                f"`batch` must be a pair (inputs, targets), got {type(batch).__name__}{length}. "
                "Put several inputs into a tuple or dict, and None where the loss takes no targets."
            )
        inputs, targets = batch
        if isinstance(inputs, Mapping):  # other mappings are no trees of tensors for torch
            inputs = dict(inputs)
        found = tensors(inputs)
        if not found:
            raise TypeError(
                "`batch` must hold inputs that are a tensor, or a tuple or dict with tensors, got "
                f"{type(inputs).__name__}. Convert arrays with `torch.as_tensor`."
            )
        with_rows = [x for x in (*tensors(targets)[:1], *found) if x.dim()]
        if not with_rows or not with_rows[0].shape[0]:
            raise ValueError("`batch` must have rows, got none.")
        n_rows = with_rows[0].shape[0]
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor) and targets.dim():
            sizes = inputs.shape[:2]  # sequences may come first, and targets flattened
            if n_rows not in {*sizes, sizes.numel()}:
                raise ValueError(
                    f"`batch` must have as many targets as inputs, got inputs of shape "
                    f"{tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}."
                )
        return cls(inputs, targets, n_rows)

    def call(self, model: Any) -> Any:
        """Run the model on a copy of the inputs."""
        inputs = detached(self.inputs)
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, tuple | list) and not is_packed(inputs):
            return model(*inputs)
        return model(inputs)

    def loss(self, model: Any, loss_fn: Any) -> tuple[Any, Any]:
        """Return the model's outputs, and what the loss function says of them."""
        outputs = self.call(model)
        return outputs, loss_fn(outputs, detached(self.targets))
