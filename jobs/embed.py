"""Job: the stage `embed`. Runs by spark-submit, as a Databricks task, or as `entropylong run embed`.

spark-submit jobs/embed.py --config conf/demo.yaml workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["run", "embed", *sys.argv[1:]])
