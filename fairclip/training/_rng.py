"""The states of the random number generators that a training run draws from."""

import random
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairclip.exceptions import FairclipWarning


class GlobalGenerators:
    """Those that everything shares: of Python, NumPy, and torch on the CPU and each CUDA device."""

    def state_dict(self) -> dict[str, Any]:
        """Return their states, in types that torch loads without running code."""
        legacy: Any = np.random.get_state()  # noqa: NPY002
        _, key, *rest = legacy
        return {
            "python": random.getstate(),
            "numpy": (torch.tensor(key.astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
            # Where CUDA was not used yet, asking would start it.
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; a device that is absent warns."""
        random.setstate(state["python"])
        key, *rest = state["numpy"]
        np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(state["torch"])
        n_here = torch.cuda.device_count()
        for device, one in enumerate(state["cuda"][:n_here]):
            torch.cuda.set_rng_state(one, device)
        if len(state["cuda"]) > n_here:
            warnings.warn(
                f"The checkpoint holds the random numbers of {len(state['cuda'])} CUDA devices, "
                f"here are {n_here}: what draws on the others goes on with other numbers.",
                FairclipWarning,
                stacklevel=3,
            )


class OwnGenerator:
    """A ``torch.Generator`` with the methods of other parts."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> Tensor:
        """Return its state."""
        return self._generator.get_state()

    def load_state_dict(self, state: Tensor) -> None:
        """Take over what `state_dict` returned."""
        self._generator.set_state(state)
