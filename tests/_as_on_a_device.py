"""The arithmetic of a device, on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fairclip import _arrays


@contextmanager
def as_on_a_device() -> Iterator[None]:
    """Take the CPU for a device, where small arithmetic is torch's and nothing may be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_arrays, "_HOST", "nowhere")
        yield
