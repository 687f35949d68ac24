"""Job: a new generation of the index. Runs by spark-submit, as a Databricks task, or as `entropylong refresh`.

spark-submit jobs/refresh.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["refresh", *sys.argv[1:]])
