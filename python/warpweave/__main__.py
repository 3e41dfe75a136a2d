# SPDX-License-Identifier: Apache-2.0
from .cli import app

app(prog_name="warpweave")
