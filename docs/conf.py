"""Sphinx: `make docs` writes the site to docs/_build/html; warnings are errors."""

from __future__ import annotations

from edge_ser._version import __version__

project = "edge-ser"
author = "the edge-ser developers"
copyright = f"2026, {author}"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "edge-ser"
html_extra_path = ["../web/dist/page"]  # the page of try.md, which web/build.py writes
html_copy_source = False
html_show_sphinx = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
