"""How long `weakseg --help` and `import weakseg` take, in fresh processes.

python benchmarks/startup.py
"""

import subprocess
import sys
from pathlib import Path

from measuring import arguments, in_turns, row, save


def main() -> None:
    """Measure and write ``startup.json``."""
    options = arguments(__doc__ or "", repeats=7).parse_args()

    def process(*command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def imports(names: str) -> None:
        process(sys.executable, "-c", f"import {names}")

    program = str(Path(sys.executable).with_name("weakseg"))
    seconds = in_turns(
        lambda: process(program, "--help"),
        lambda: imports("torch"),
        lambda: imports("torch, weakseg"),
        lambda: imports("torch, weakseg.types"),
        repeats=options.repeats,
    )
    rows = [
        row("`weakseg --help`", "seconds", 0.5, [s[0] for s in seconds], at_least=False),
        row("`import weakseg`", "seconds beyond `import torch`", 0.3, [s[2] - s[1] for s in seconds], at_least=False),
    ]
    for found in rows:
        found["import_torch_seconds"] = sorted(round(s[1], 3) for s in seconds)[len(seconds) // 2]
        found["record_types_beyond_torch_seconds"] = sorted(round(s[3] - s[1], 3) for s in seconds)[len(seconds) // 2]
    save("startup", rows, options.out)


if __name__ == "__main__":
    main()
