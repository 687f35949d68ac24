"""The configuration: typed sections, and the loader of YAML files and overrides."""

from entropylong.config.loader import load_config
from entropylong.config.schema import Config

__all__ = ["Config", "load_config"]
