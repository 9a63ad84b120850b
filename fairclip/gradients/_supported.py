"""Refuse what would give wrong group gradients in silence."""

import sys

import torch
from torch import nn


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name, tied ones once.

    Raises:
        ValueError: If there is none, or if one is sharded or gets sparse gradients.
        NotImplementedError: If the model is sharded or wrapped for several processes.
    """
    _check_not_wrapped(model)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("`model` has no trainable parameters: set `requires_grad` on some.")
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) and any(p.requires_grad for p in module.parameters()):
            raise ValueError(
                f"Module '{name}' makes sparse gradients, which cannot be split by group. Build it "
                "with `sparse=False`."
            )
    devices = {str(parameter.device) for parameter in parameters.values()}
    if len(devices) > 1:
        raise NotImplementedError(
            f"The model's parameters are on several devices, {', '.join(sorted(devices))}; only "
            "one is supported yet."
        )
    tensor = sys.modules.get("torch.distributed.tensor")
    for name, parameter in parameters.items():
        if parameter.is_complex():
            raise ValueError(f"Parameter '{name}' is complex; only real ones are supported.")
        if tensor is not None and isinstance(parameter, tensor.DTensor):
            raise NotImplementedError(
                f"Parameter '{name}' is a DTensor: sharded models are not supported yet, because a "
                "group's norm would be that of one shard."
            )
    return parameters


def check_single_process() -> None:
    """Raise where gradients are averaged over several processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world_size = torch.distributed.get_world_size()
        if world_size > 1:
            raise NotImplementedError(
                f"Training over {world_size} processes is not supported yet: `.grad` is averaged "
                "over them while group gradients are local, so that the processes would diverge."
            )


def _check_not_wrapped(model: nn.Module) -> None:
    check_single_process()
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise NotImplementedError(
                "Scripted and traced models are not supported: hooks do not see inside. Pass the "
                "model as it was before `torch.jit`."
            )
        kind = type(module).__name__
        if kind in ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel"):
            raise NotImplementedError(
                f"{kind} is not supported yet: `.grad` is reduced over devices while group "
                "gradients are local. Pass the plain model."
            )
