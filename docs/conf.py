"""The site: docstrings, the pages beside this file, and the notebooks."""

import hashlib
import shutil
import sys
from importlib.metadata import distributions
from importlib.metadata import version as version_of
from pathlib import Path

from fairclip.metrics import responsible_use

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from study_pages import write_study_pages  # noqa: E402  (found in the folder above)

project = "fairclip"
author = "the fairclip authors"
project_copyright = ""
version = release = version_of("fairclip")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "mathml",
    "public_names",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints", "study/study.md", "study/pages/answer.md"]
nitpicky = True  # of our own names; other projects are not fetched to link to them
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|pd|pandas|pathlib|lightning|transformers|keras|skorch|sklearn)\..*"),
    ("py:.*", r"fairclip\..*\b_\w+\..*"),  # private classes, as types of attributes
]

# Docstrings name other objects in single backticks. What is not on the site stays plain text.
default_role = "py:obj"
autodoc_typehints = "none"  # signatures name the arguments, docstrings their units and meaning
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    # scikit-learn writes these methods, and refers to its own site.
    "exclude-members": "get_metadata_routing, set_fit_request, set_partial_fit_request, "
    "set_score_request",
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shape", "Source"]
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3


def hash_of_sources() -> str:
    """Return a hash of what the notebooks' numbers come from, their own cells aside."""
    found = hashlib.sha256()
    for pattern in ("fairclip/**/*", "metrics/**/*", "docs/study/*.csv"):
        for path in sorted(HERE.parent.glob(pattern)):
            if path.is_file() and path.suffix != ".pyc":
                found.update(f"{path.relative_to(HERE.parent)}\0".encode() + path.read_bytes())
    found.update("\0".join(sorted(f"{it.name} {it.version}" for it in distributions())).encode())
    return found.hexdigest()[:16]


# The notebooks run while the site is built, in folders of their own; where neither their cells nor
# the package nor its libraries have changed they are not run again. Sphinx reads below its own
# folder only, so they are copied there.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".notebooks" / hash_of_sources())
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # nothing is loaded from elsewhere

html_theme = "furo"
html_title = f"fairclip {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": False}


def copy_notebooks() -> None:
    """Copy the notebooks that have changed, and take away copies of those that are gone."""
    copies = HERE / "notebooks"
    copies.mkdir(exist_ok=True)
    originals = {path.name: path for path in (HERE.parent / "notebooks").glob("*.ipynb")}
    for copy in copies.glob("*.ipynb"):
        if copy.name not in originals:
            copy.unlink()
    for name, path in originals.items():
        copy = copies / name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


def write_responsible_use() -> None:
    """Write the page that is also in every report, from the package's own text."""
    page = HERE / "responsible_use.md"
    if not page.exists() or page.read_text(encoding="utf-8") != responsible_use():
        page.write_text(responsible_use(), encoding="utf-8")


write_responsible_use()
if write_study_pages(HERE / "study"):  # a notebook reads the tables: it runs again
    for made in ("notebooks", "_build/.notebooks"):
        shutil.rmtree(HERE / made, ignore_errors=True)
copy_notebooks()
