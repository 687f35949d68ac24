"""Stage 3: pairs, forward passes, raw gains and the acceptance rule."""
