# SPDX-License-Identifier: Apache-2.0
"""The language models: configuration, layers, checkpoints and generation."""

from .cache import Cache
from .config import Config
from .model import Model

__all__ = ["Cache", "Config", "Model"]
