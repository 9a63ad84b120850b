"""Several modes, one after the other."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from fairclip.clipping._mode import Mode, ModeState, Parameters
from fairclip.clipping._record import ClipRecord


@dataclass(frozen=True, slots=True, init=False)
class Chain(Mode):
    """Apply modes in order, each to what the one before left.

    Args:
        *modes: The modes, at least one. Chains nest.

    Returns:
        A :class:`ClipRecord` with each mode's own in ``stages``. ``norm_before`` is the first's and
        ``norm_after`` the last's (compare them only where both have one ``norm_type``),
        ``share_clipped`` is the largest, ``threshold`` is NaN; ``first_nonfinite`` and
        ``parameters`` are of the first mode that measures them.

    Raises:
        TypeError: If something is not a mode.
        ValueError: If there is none.

    Source:
        ``optax.chain``, https://optax.readthedocs.io/en/latest/api/combining_optimizers.html.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Chain, Norm, Value
        >>> weight = torch.zeros(2)
        >>> weight.grad = torch.tensor([3.0, 100.0])
        >>> record = Chain(Value(max_value=4.0), Norm(max_norm=1.0))([weight])
        >>> weight.grad, [stage.name for stage in record.stages]
        (tensor([0.6000, 0.8000]), ['Value', 'Norm'])
    """

    modes: tuple[Mode, ...]

    def __init__(self, *modes: Mode) -> None:
        if not modes:
            raise ValueError("`Chain` needs at least one mode.")
        for mode in modes:
            if not isinstance(mode, Mode):
                raise TypeError(f"`Chain` takes clipping modes such as Norm(1.0), got {mode!r}.")
        object.__setattr__(self, "modes", modes)

    def scaled(self, factor: float) -> "Chain":
        """Return the chain with the thresholds of all modes times ``factor``."""
        return Chain(*(mode.scaled(factor) for mode in self.modes))

    def init(self, parameters: Parameters) -> ModeState | None:
        """Return the modes' states as one; None if none of them remembers anything."""
        parameters = _several_times(parameters)
        states = tuple(mode.init(parameters) for mode in self.modes)
        return None if all(state is None for state in states) else _ChainState(states)

    def __call__(self, parameters: Parameters, state: Any = None) -> ClipRecord:
        """Apply every mode to every ``.grad`` in place."""
        parameters = _several_times(parameters)
        states = (None,) * len(self.modes) if state is None else state.states
        stages = tuple(mode(parameters, own) for mode, own in zip(self.modes, states, strict=True))
        first, last = stages[0], stages[-1]
        located = next((each for each in stages if each.first_nonfinite is not None), first)
        shares = [stage.share_clipped.to(first.share_clipped) for stage in stages]
        return ClipRecord(
            name="Chain",
            norm_before=first.norm_before,
            norm_after=last.norm_after,
            threshold=first.norm_before.new_full((), math.nan),
            share_clipped=torch.stack(shares).max(),
            first_nonfinite=located.first_nonfinite,
            parameters=located.parameters,
            stages=stages,
        )


@dataclass(slots=True)
class _ChainState:
    states: tuple[ModeState | None, ...]

    def state_dict(self) -> dict[str, Any]:
        return {"states": [state and state.state_dict() for state in self.states]}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        saved = state.get("states", ())
        if [each is None for each in saved] != [own is None for own in self.states]:
            raise ValueError(
                "The state to load is not of a Chain with these modes: resume with the modes that "
                "it was saved with, in their order."
            )
        states = copy.deepcopy(self.states)  # if one does not fit, none is loaded
        for own, one in zip(states, saved, strict=True):
            if own is not None:
                own.load_state_dict(one)
        self.states = states


def _several_times(parameters: Parameters) -> Parameters:
    """Return something that every mode can go through, for instance not a generator."""
    return parameters if isinstance(parameters, torch.Tensor) else list(parameters)
