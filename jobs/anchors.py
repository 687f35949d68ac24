"""Job: the stage `anchors`. Runs by spark-submit, as a Databricks task, or as `entropylong run anchors`.

spark-submit jobs/anchors.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "anchors", *sys.argv[1:]])
