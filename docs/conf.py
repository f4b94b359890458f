"""Sphinx configuration; ``make docs`` builds with warnings as errors."""

import keyd

project = "keyd"
author = "The keyd authors"
copyright = f"2026, {author}"  # noqa: A001 (Sphinx's name)
release = version = keyd.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"keyd {release}"
