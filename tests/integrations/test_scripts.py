"""The README's table: how many lines a script changes, and that it trains as the plain one does."""

from functools import cache
from pathlib import Path

import pytest

from tests.integrations._scripts import FOLDER, Training, diff, largest_difference, run

README = Path(__file__).parents[2] / "README.md"
TITLES = {
    "plain": "plain torch",
    "lightning": "Lightning",
    "transformers": "Hugging Face Trainer",
    "accelerate": "Hugging Face Accelerate",
    "skorch": "skorch",
    "keras": "Keras 3 on torch",
    "sklearn": "scikit-learn",
}
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


def n_changed(name: str) -> int:
    """Return the number of lines added or changed."""
    return sum(line.startswith("+") for line in diff(name))


def what_is_equal(name: str) -> str:
    """Say what of each step is that of the plain loop, or fail."""
    found, expected = training(f"{name}_after"), plain(name)
    assert largest_difference(found.weights, expected.weights) < TOLERANCE
    if not found.gradients:  # the optimizer is none of torch's
        return "weights"
    assert len(found.gradients) == len(expected.gradients)
    for step, right in zip(found.gradients, expected.gradients, strict=True):
        assert largest_difference(step, right) < TOLERANCE
    return "gradients, weights"


@pytest.mark.parametrize("name", NAMES)
def test_the_script_takes_the_steps_of_the_plain_loop(name: str) -> None:
    assert what_is_equal(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_cap_acts(name: str) -> None:
    before, after = training(f"{name}_before"), training(f"{name}_after")
    if not before.weights:  # it trains a network of another kind
        before = training(f"{name}_uncapped")
    assert largest_difference(before.weights, after.weights) > 1e3 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_at_most_four_lines_change(name: str) -> None:
    assert 1 <= n_changed(name) <= 4


def test_the_readme_has_the_table_and_the_lines() -> None:
    assert sorted(TITLES) == NAMES
    table = [f"| {TITLES[n]} | {n_changed(n)} | {what_is_equal(n)} |" for n in TITLES]
    lines = [text for name, title in TITLES.items() for text in (f"@@ {title} @@", *diff(name))]
    readme = README.read_text(encoding="utf-8")
    assert "\n".join(table) in readme, "\n".join(table)
    assert "\n".join(lines) in readme, "\n".join(lines)
