"""The metrics of a run: how they are computed and what they are called."""
