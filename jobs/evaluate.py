"""Job: a benchmark of a model. Runs by spark-submit, as a Databricks task, or as `entropylong evaluate`.

spark-submit jobs/evaluate.py ruler --config demo --length 2048 workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
