# SPDX-License-Identifier: Apache-2.0
"""The small trained model that ships with the package, and the scripts that reproduce it."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
