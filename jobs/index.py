"""Job: the stage `index`. Runs by spark-submit, as a Databricks task, or as `entropylong run index`.

spark-submit jobs/index.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "index", *sys.argv[1:]])
