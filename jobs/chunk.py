"""Job: the stage `chunk`. Runs by spark-submit, as a Databricks task, or as `entropylong run chunk`.

spark-submit jobs/chunk.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "chunk", *sys.argv[1:]])
