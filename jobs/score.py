"""Job: the stage `score`. Runs by spark-submit, as a Databricks task, or as `entropylong run score`.

spark-submit jobs/score.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "score", *sys.argv[1:]])
