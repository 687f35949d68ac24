"""One driver per kind of stage."""
