"""From the table of sequences to the batches of a training run: a sealed feed, its global order, its reader."""
