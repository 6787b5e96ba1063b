"""Sphinx settings of the book; ``topgap book`` gathers its pages and calls Sphinx."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "The Top-GAP workbook"
copyright = "the workbook's authors, MIT licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["templates"]
exclude_patterns = ["templates", "verdicts.md"]
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = False
# A link that leads nowhere is an error; types of other packages have no page here.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!topgap_nb\.\w+$).*")]
# The notebooks come executed.
nb_execution_mode = "off"
# Nothing is loaded from another host: no player for widgets, and formulas as MathML.
nb_ipywidgets_js = {}
nb_merge_streams = True
# Checks and imports have a prompt of their own.
nb_code_prompt_show = "Show the solution"
nb_code_prompt_hide = "Hide the solution"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
autodoc_member_order = "bysource"
# A field of a named tuple is a member already; its docstring must not declare it again.
napoleon_use_ivar = True
# ... and several may have a field of the same name.
suppress_warnings = ["ref.python"]


def _formula(translator, node, block: bool) -> None:
    """Write a formula as MathML, which browsers draw by themselves."""
    markup = convert(node.astext(), display="block" if block else "inline")
    translator.body.append(f"<div>{markup}</div>" if block else markup)
    raise SkipNode


def _as_written(app, what, name, obj, options, lines: list[str]) -> None:
    """Keep bars in docstrings, which write |X| for a norm, from becoming substitutions."""
    # Constants have no docstring: these lines are those of ``dict`` or ``str``.
    lines[:] = [] if what == "data" else [line.replace("|", r"\|") for line in lines]


def setup(app) -> None:
    """Register the renderer of formulas, and how docstrings are read."""
    app.connect("autodoc-process-docstring", _as_written)
    app.add_html_math_renderer(
        "mathml",
        (lambda translator, node: _formula(translator, node, False), None),
        (lambda translator, node: _formula(translator, node, True), None),
    )
