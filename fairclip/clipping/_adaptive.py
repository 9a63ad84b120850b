"""What the modes share whose threshold follows the norms of past steps. Shapes: S scopes."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairclip.clipping._mode import Mode, Parameters
from fairclip.clipping._record import ClipRecord
from fairclip.clipping._scopes import Scope, Scopes, as_tensor, by_scope, check_scope

Memory = dict[str, Tensor]  # float64; the last dimension is S


class AdaptiveState:
    """What an adaptive mode remembers; made by its ``init``, updated by each call.

    It moves to the device of the norms, and takes in scopes that appear later, such as those of a
    parameter group that is added: each starts as in a first step.

    Attributes:
        mode: The name of the mode.
        scopes: The names of the S scopes.
        memory: What the mode keeps of each, by name.
    """

    def __init__(self, mode: str, scopes: Sequence[str], start: Memory) -> None:
        self.mode = mode
        self.scopes = list(scopes)
        self._start = start  # of one scope
        self.memory = self._fresh(len(scopes))  # its tensors are replaced, never changed

    def _fresh(self, n_scopes: int) -> Memory:
        return {name: one.repeat_interleave(n_scopes, -1) for name, one in self._start.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs; the settings are the mode's."""
        return {"mode": self.mode, "scopes": list(self.scopes), "memory": dict(self.memory)}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take over what `state_dict` returned, saved on any device.

        Raises:
            ValueError: If it is of another mode, lacks a scope, or is of another window.
        """
        if state.get("mode") != self.mode:
            raise ValueError(
                f"The state to load is of {state.get('mode')}, this one of {self.mode}: resume "
                "with the mode it was saved with."
            )
        scopes, memory = state["scopes"], state["memory"]
        if not {*self.scopes} <= {*scopes}:
            raise ValueError(
                f"The state to load is of {scopes}, this one of {self.scopes}: resume with the "
                "`scope` and the parameters it was saved with, and load before new ones are added."
            )
        for name, one in self._start.items():
            if memory[name].shape[:-1] != one.shape[:-1]:
                raise ValueError(
                    f"`{name}` in the state to load has the shape {tuple(memory[name].shape)}, "
                    f"here each scope has {tuple(one.shape[:-1])}: resume with the same `window`."
                )
        self.memory = {name: memory[name].to(kept) for name, kept in self.memory.items()}
        self.scopes = list(scopes)

    def spread(self, scopes: Scopes) -> tuple[Tensor, Tensor | None]:
        """Return the norms, (S,), NaN where no gradient is; and where they are if not all there."""
        norms = scopes.before.double()
        if any(kept.device != norms.device for kept in self.memory.values()):
            self.memory = {name: kept.to(norms.device) for name, kept in self.memory.items()}
        if scopes.names == self.scopes:
            return norms, None
        known = {*self.scopes}
        if unknown := [name for name in scopes.names if name not in known]:
            self.scopes += unknown
            for name, fresh in self._fresh(len(unknown)).items():
                self.memory[name] = torch.cat([self.memory[name], fresh.to(norms.device)], -1)
        place_of = {name: float(place) for place, name in enumerate(self.scopes)}
        places = as_tensor([place_of[name] for name in scopes.names], norms).long()
        return norms.new_full((len(place_of),), math.nan).index_copy_(0, places, norms), places


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive(Mode):
    """Scale gradients down to a threshold that is found anew in every step.

    A mode adds its settings, what it remembers and its rule.
    """

    lower: float | None = None
    upper: float | None = None
    scope: Scope = "global"

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"`{name}` must be positive or None, got {bound}.")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"`lower` must be at most `upper`, got {self.lower} > {self.upper}.")
        check_scope(self.scope)
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raise where one of the mode's own settings is out of range."""

    @abstractmethod
    def _start(self) -> Memory:
        """Return what is remembered of one scope before its first step."""

    @abstractmethod
    def _threshold_(self, norms: Tensor, observed: Tensor, memory: Memory) -> Tensor:
        """Return the thresholds, (S,), inf where there is none yet, and take the step in.

        Args:
            norms: (S,) float64.
            observed: (S,) bool; what is remembered of the others must stay as it is.
            memory: As of the steps before; updated in place.
        """

    def init(self, parameters: Parameters) -> AdaptiveState:
        """Return a new state for all parameters, with or without a gradient."""
        parameters = self._listed(parameters)
        by_scope(parameters, self.scope)  # raises where names are missing
        names = [item[0] if isinstance(item, tuple) else "" for item in parameters]
        if self.scope == "global":
            names = ["all"]
        elif self.scope == "layer":
            names = [name.rpartition(".")[0] or "the others" for name in names]
        elif len(set(names)) < len(names):
            raise ValueError('`scope="tensor"` needs each name once: put the models\' in front.')
        return AdaptiveState(type(self).__name__, list(dict.fromkeys(names)), self._start())

    @torch.no_grad()
    def __call__(self, parameters: Parameters, state: Any = None) -> ClipRecord:
        """Scale every ``.grad`` in place, and update ``state``."""
        name = type(self).__name__
        if not isinstance(state, AdaptiveState) or state.mode != name:
            raise ValueError(
                f"{name} remembers past norms: pass as `state` what its `init(parameters)` "
                "returned, or attach it to an optimizer."
            )
        scopes = by_scope(self._listed(parameters), self.scope)
        before = scopes.before
        if not scopes.values:
            return scopes.record(name, before + 1, before + math.nan)
        norms, places = state.spread(scopes)
        thresholds = self._threshold_(norms, norms.isfinite(), state.memory)
        if self.lower is not None or self.upper is not None:
            thresholds = thresholds.clamp(self.lower, self.upper)
        if places is not None:
            thresholds = thresholds.index_select(0, places)
        thresholds = thresholds.to(before.dtype)
        # Without torch's 1e-6: a norm is often its own threshold here, and then stays what it is.
        factors = torch.where(before <= thresholds, 1.0, thresholds / before)
        return scopes.clip_(name, factors, thresholds)

    def _listed(self, parameters: Parameters) -> list[Any]:
        """Number the tensors without a name, so that each is the same scope in every step."""
        listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if self.scope != "tensor":
            return listed
        return [p if isinstance(p, tuple) else (str(i), p) for i, p in enumerate(listed)]


@dataclass(frozen=True, slots=True)
class Moments(Adaptive):
    """A mode that remembers the mean and the variance of the norms."""

    z: float = 2.5
    alpha: float = 0.97
    warmup: int = 25

    def _check(self) -> None:
        if not 0 < self.z < math.inf:
            raise ValueError(f"`z` must be positive and finite, got {self.z}.")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"`alpha` must be in [0, 1), got {self.alpha}.")
        if not (isinstance(self.warmup, int) and self.warmup >= 1):
            raise ValueError(f"`warmup` must be a whole number of at least 1, got {self.warmup}.")

    def _start(self) -> Memory:
        zero = torch.zeros(1, dtype=torch.float64)
        return {"count": zero, "mean": zero, "variance": zero}
