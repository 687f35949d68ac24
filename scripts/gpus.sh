#!/bin/sh
# The GPUs of this node, as spark.executor.resource.gpu.discoveryScript wants them: {"name": "gpu", "addresses": ["0", "1"]}
set -e
indices=$(nvidia-smi --query-gpu=index --format=csv,noheader)
printf '{"name": "gpu", "addresses": ["%s"]}\n' "$(printf '%s' "$indices" | tr -d ' ' | paste -sd, - | sed 's/,/", "/g')"
