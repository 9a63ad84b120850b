"""One place for every public name, and links to it by the short name that docstrings use."""

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import ExtensionMetadata

import fairclip


def skip(app: Sphinx, what: str, name: str, member: Any, _skip: bool, _options: Any) -> bool | None:
    """Skip the names of a module that stand on the page of ``fairclip``."""
    module = app.env.current_document.autodoc_module
    at_top = what == "module" and name in fairclip.__all__ and module != "fairclip"
    return True if at_top and getattr(fairclip, name) is member else None


def find(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """Find `FairClipper`, named in a docstring of another module."""
    if node.get("refdomain") != "py" or node["reftarget"].split(".")[0] not in fairclip.__all__:
        return None
    target = f"fairclip.{node['reftarget']}"
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, text)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Listen to autodoc, and to references that were not found."""
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", find)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
