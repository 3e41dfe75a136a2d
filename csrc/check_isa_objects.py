# SPDX-License-Identifier: Apache-2.0
"""Usage: check_isa_objects.py NM OBJECT...: fails if an object defines a weak or unique symbol."""

import subprocess
import sys

nm, *objects = sys.argv[1:]
if not objects:
    sys.exit("check_isa_objects: no objects given")
found = []
for path in objects:
    listing = subprocess.run(
        [nm, "--defined-only", "--demangle", "--portability", path],
        check=True, capture_output=True, text=True,
    ).stdout
    for line in listing.splitlines():
        symbol, kind, *_ = line.rsplit(maxsplit=3)
        if kind in "VvWwu":
            found.append(f"{path}: {symbol} ({kind})")
if found:
    sys.exit(
        "warpweave: per-ISA objects define weak symbols, which the linker may take for another ISA:\n  "
        + "\n  ".join(found)
        + "\nMake them static, or put them into an unnamed namespace."
    )
