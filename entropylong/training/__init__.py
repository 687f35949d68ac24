"""The 128K training run: model, sequence parallelism, loss, optimiser, checkpoints. Pure torch."""
