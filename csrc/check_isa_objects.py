# SPDX-License-Identifier: Apache-2.0
"""Usage: check_isa_objects.py NM OBJECT...: fails if an object defines a weak or unique symbol."""

import subprocess
import sys

nm, *objects = sys.argv[1:]
if not objects:
    sys.exit("check_isa_objects: no objects given")
found = []
for path in objects:
    command = [nm, "--defined-only", "--demangle", path]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        _, kind, symbol = line.split(maxsplit=2)
        if kind in "VvWwu":
            found.append(f"{path}: {symbol} ({kind})")
if found:
    sys.exit(
        "warpweave: per-ISA objects define weak symbols, which may end up in code for another:\n  "
        + "\n  ".join(found)
        + "\nMake them static, or put them into an unnamed namespace."
    )
