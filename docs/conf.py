"""Settings of the documentation: `sphinx-build -W -n -b html docs docs/_build/html`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# the package beside these pages, not an installed one
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_extensions"), str(ROOT / "workflow")]

import hsfm  # noqa: E402

project = "hsfm"
author = "The hsfm authors"
copyright = "2026, the hsfm authors"
version = release = hsfm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "docstrings", "generated"]
exclude_patterns = ["_build", "_extensions"]
html_theme = "furo"
html_title = f"hsfm {release}"
html_static_path = ["_static"]
html_css_files = ["hsfm.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
highlight_language = "none"
smartquotes = False  # what stands between quotes is code as often as not

myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 4  # as GitHub has them

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 88
python_display_short_literal_types = True

# Names of other packages, whose pages are not asked, since a build needs no network. Names of hsfm have to be found.
OTHERS = (
    "annotated_types|types|jaxtyping|torch|numpy|np|pandas|pd|pyarrow|pathlib|collections|typing|sklearn|matplotlib"
)
nitpick_ignore_regex = [
    (r"py:.*", rf"({OTHERS})\..*"),
    (r"py:.*", r"hsfm\..*(Settings|HardLoss)"),  # settings stand in the reference of the configuration
    (r"py:.*", r"(int|float|str|bool|bytes|object|tuple|list|dict|None|ValueError|OSError|Any|Path|Tensor|ndarray)"),
]
linkcheck_anchors = False
