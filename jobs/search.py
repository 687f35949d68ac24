"""Job: the stage `search`. Runs by spark-submit, as a Databricks task, or as `entropylong run search`.

spark-submit jobs/search.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "search", *sys.argv[1:]])
