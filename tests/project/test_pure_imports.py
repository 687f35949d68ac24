"""The pure layers import, and compute, where Spark, MLflow, FAISS and Petastorm are not installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def test_pure_layers_without_spark() -> None:
    code = textwrap.dedent(
        """
        import sys
        from importlib.machinery import PathFinder
        class Without(PathFinder):
            # Where they are not installed they are not found, whoever asks.
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                if name.split(".")[0] in {"pyspark", "delta", "py4j", "mlflow", "faiss", "petastorm", "pyarrow"}:
                    return None
                return super().find_spec(name, path, target)
        sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
        import numpy as np
        from entropylong.entropy.anchors import find_anchors
        import entropylong.entropy.scoring
        import entropylong.entropy.word_starts
        import entropylong.corpus.chunking
        import entropylong.corpus.sources.canaries
        import entropylong.corpus.sources.demo
        import entropylong.models.causal_lm
        import entropylong.models.prepare
        import entropylong.retrieval.windows
        import entropylong.config
        import entropylong.verification.rules.acceptance
        import entropylong.verification.copying
        import entropylong.verification.measuring
        import entropylong.verification.planning
        import entropylong.packing.groups
        import entropylong.packing.sequences
        import entropylong.packing.recipes
        import entropylong.reporting.wording
        import entropylong.utils.hashing
        import entropylong.training.loop
        import entropylong.training.rank
        import entropylong.training.describe
        import entropylong.training.data.chat
        import entropylong.evaluation.ruler.run
        import entropylong.evaluation.longbench
        import entropylong.reporting.comparison.page
        from entropylong.config import load_config
        from entropylong.planning.estimate import make_plan
        assert make_plan(load_config("paper"), None).ways[0].work.tokens > 4e12
        try:
            import pyspark
        except ImportError:
            pass
        else:
            raise AssertionError("pyspark was found")
        h = np.ones(100, np.float32); h[50] = 9
        assert find_anchors(h, alpha=2.0, min_position=1).positions.tolist() == [50]
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sources_are_listed_and_sampled_without_spark() -> None:
    code = """
import sys
sys.modules |= {"pyspark": None, "delta": None}
import entropylong.corpus.init_config
from entropylong.corpus.sources.registry import SOURCES
assert len(SOURCES) == 6
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
