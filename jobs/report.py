"""Job: the HTML report. Runs by spark-submit, as a Databricks task, or as `entropylong report`.

spark-submit jobs/report.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
