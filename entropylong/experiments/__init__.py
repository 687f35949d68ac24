"""The small-scale experiment: two claims with their decision rules, fixed before they are run (A: links; B: training)."""
