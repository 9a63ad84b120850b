"""What importing and calling the package loads."""

import subprocess
import sys
from pathlib import Path

import fairclip.metrics

ROOT = Path(__file__).parents[2]


def _run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


def test_an_audit_loads_nothing_heavy() -> None:
    code = """
import sys
from fairclip.metrics import audit
heavy = {"torch", "scipy", "sklearn", "fairlearn", "matplotlib", "jinja2"}
audit([0, 1], [0, 1], sensitive_features=["a", "b"])
print(sorted(heavy & set(sys.modules)))
audit([0, 1], [0, 1], sensitive_features=["a", "b"], y_score=[0.1, 0.9])
print(sorted(heavy & set(sys.modules)))
"""
    assert _run(code).split() == ["[]", "['scipy']"]  # Student's t


def test_a_report_with_pictures_loads_no_pyplot_and_no_torch() -> None:
    code = """
import sys, tempfile
from fairclip.metrics import audit
audit([0, 1], [0, 1], sensitive_features=["a", "b"]).save(tempfile.mkdtemp())
print(sorted({"torch", "scipy", "matplotlib.pyplot"} & set(sys.modules)))
"""
    assert _run(code).strip() == "[]"


def test_nothing_of_fairclip_is_imported() -> None:
    loaded = _run("import sys, fairclip.metrics; print(*sys.modules)").split()
    ours = {name for name in loaded if name.split(".")[0] == "fairclip"}
    assert all(name == "fairclip" or name.startswith("fairclip.metrics") for name in ours)


def test_the_folder_has_one_name_only() -> None:
    code = "try:\n    import metrics\nexcept ImportError as error:\n    print(error)"
    assert "fairclip.metrics" in _run(code)


def test_every_public_name_resolves() -> None:
    names = vars(fairclip.metrics)["__all__"]
    assert all(hasattr(fairclip.metrics, name) for name in names)
    assert names == sorted(names)
