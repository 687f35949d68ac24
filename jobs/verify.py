"""Job: the stage `verify`. Runs by spark-submit, as a Databricks task, or as `entropylong run verify`.

spark-submit jobs/verify.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "verify", *sys.argv[1:]])
