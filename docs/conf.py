"""Sphinx configuration: MyST pages, the furo theme, autodoc of the public names."""

project = "globediff_torchrl"
author = "the globediff_torchrl authors"
copyright = "2026, the globediff_torchrl authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "globediff_torchrl"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Reads", "Writes", "Shapes"]
