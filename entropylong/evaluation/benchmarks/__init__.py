"""The benchmarks, by the key under which results are kept: a file each, whose record holds all that differs.

The command line, the comparison and the model card iterate over them.
"""

from __future__ import annotations

from entropylong.evaluation.benchmarks import attention, gain, longbench, longppl, ruler
from entropylong.evaluation.benchmarks.record import Benchmark, Comparison

# In the order of --help and of the comparison's page.
BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.key: module.BENCHMARK for module in (ruler, longbench, longppl, attention, gain)
}


def comparisons() -> dict[str, tuple[Benchmark, Comparison]]:
    """The benchmarks that are compared, with how they are."""
    return {key: (one, one.comparison) for key, one in BENCHMARKS.items() if one.comparison is not None}
