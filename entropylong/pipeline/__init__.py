"""The pipeline: the stages in order, what of them is pending, and the drivers that do it."""
