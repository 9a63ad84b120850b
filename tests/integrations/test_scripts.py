"""The README's table: how many lines a script changes, and that it trains as the plain one does."""

from functools import cache
from pathlib import Path

import pytest

from tests.integrations._scripts import FOLDER, Training, changed_lines, largest_difference, run

NAMES = sorted(path.name[: -len("_after.py")] for path in FOLDER.glob("*_after.py"))
pytestmark = [  # Lightning's
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
TOLERANCE = 1e-6  # float32, added up in another order


@cache
def training(script: str) -> Training:
    return run(script)


def plain(name: str) -> Training:
    """Return the plain loop that takes the same steps: the common one, or one of its own."""
    has_own = Path(FOLDER, f"{name}_plain.py").exists()
    return training(f"{name}_plain" if has_own else "plain_after")


@pytest.mark.parametrize("name", NAMES)
def test_at_most_four_lines_change(name: str) -> None:
    assert 1 <= len(changed_lines(name)) <= 4


@pytest.mark.parametrize("name", NAMES)
def test_the_script_takes_the_steps_of_the_plain_loop(name: str) -> None:
    found, expected = training(f"{name}_after"), plain(name)
    assert largest_difference(found.weights, expected.weights) < TOLERANCE
    if found.gradients:  # not from an optimizer that is none of torch's
        assert len(found.gradients) == len(expected.gradients)
        for step, right in zip(found.gradients, expected.gradients, strict=True):
            assert largest_difference(step, right) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_the_cap_acts(name: str) -> None:
    before, after = training(f"{name}_before"), training(f"{name}_after")
    assert largest_difference(before.weights, after.weights) > 1e3 * TOLERANCE
