"""Job: every stage that is behind. Runs by spark-submit, as a Databricks task, or as `entropylong run`.

spark-submit jobs/run.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
