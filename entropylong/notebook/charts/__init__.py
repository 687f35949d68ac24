"""What the notebooks look into: plain tables from a workspace (a sample of its roots, by hash), and pictures of them."""

import warnings

# Where Jupyter has no widgets, tqdm says so in red when a library imports it; there is no bar here that would need them.
warnings.filterwarnings("ignore", message="IProgress not found")
