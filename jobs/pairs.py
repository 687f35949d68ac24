"""Job: the stage `pairs`. Runs by spark-submit, as a Databricks task, or as `entropylong run pairs`.

spark-submit jobs/pairs.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "pairs", *sys.argv[1:]])
