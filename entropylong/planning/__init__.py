"""`entropylong plan`: what a run would cost, known before it is spent. Pure Python: neither Spark nor the models are needed."""
