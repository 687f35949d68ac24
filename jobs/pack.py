"""Job: the stage `pack`. Runs by spark-submit, as a Databricks task, or as `entropylong run pack`.

spark-submit jobs/pack.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "pack", *sys.argv[1:]])
