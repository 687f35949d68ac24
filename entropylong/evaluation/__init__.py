"""Long-context benchmarks of a model: RULER, LongBench-v2, LongPPL. Pure torch and transformers; no Spark."""
