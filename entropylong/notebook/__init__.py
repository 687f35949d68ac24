"""A workspace in a notebook, and the charts of the shipped notebooks.

from entropylong.notebook import open_workspace
w = open_workspace("demo")
w.status()
"""

from entropylong.notebook.views import arguments, open_here, open_pair, open_workspace

__all__ = ["arguments", "open_here", "open_pair", "open_workspace"]
