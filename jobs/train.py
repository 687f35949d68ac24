"""Job: the training run on the packed sequences. Runs by spark-submit, as a Databricks task, or as `entropylong train`.

spark-submit jobs/train.py --config train_128k workspace=DIR
"""

import sys

from entropylong.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
