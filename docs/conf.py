"""The documentation as a web site: `scripts/docs` builds it with Sphinx. What is in the menu: docs/toc.yml.

The pages are the Markdown files as they are read in the repository; those at its root (SECURITY.md and so on) are
pages too, so that links lead to the same place here and there.

Why Sphinx: it is kept up (MkDocs 1 had its last release in August 2024), reads these files as they are (MyST), checks
links and anchors itself, and its search works on pages that are opened from a disk.
"""

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "kubectl netpol-ebpf"
html_title = project
copyright = "the authors of kubectl netpol-ebpf, Apache-2.0"

extensions = ["myst_parser", "sphinx_external_toc"]
external_toc_path = "docs/toc.yml"
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**"]
exclude_patterns = ["README.md", "docs/_static", "docs/_site"]

# Anchors as GitHub makes them, so that a link to a section works in both places.
myst_heading_anchors = 4
# Blocks without a language are output of commands: nothing to colour.
highlight_language = "none"
# A broken link, an anchor that is not there, a page that is not in the menu: each is a warning, and scripts/docs
# makes errors of warnings.
nitpicky = True
# `--flag` is no dash.
smartquotes = False

# Fonts, styles and the search index come with the pages: nothing is fetched when they are read, from a disk too.
html_theme = "furo"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
# The start page is docs/index.html; this one leads there.
html_extra_path = ["_site"]


def setup(app: Sphinx) -> None:
    # What commands print is no shell: the lexer of this name would colour it at random, and warn.
    app.add_lexer("console", TextLexer)
