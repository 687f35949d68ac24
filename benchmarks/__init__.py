"""One script a claim: each times our way and the naive way on the same model, text and machine, in one run."""
