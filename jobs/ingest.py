"""Job: the stage `ingest`. Runs by spark-submit, as a Databricks task, or as `entropylong run ingest`.

spark-submit jobs/ingest.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "ingest", *sys.argv[1:]])
