"""Every benchmark, each in a process of its own, then the table: what `make bench` runs.

    python benchmarks/run_all.py --only walks masks

About ten minutes on two cores that have nothing else to do.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from measuring import RESULTS
from table import ORDER


def main() -> None:
    """Run them one after the other; a benchmark whose answers differ from the plain version's ends the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=ORDER, default=list(ORDER))
    parser.add_argument("--photos", type=Path, default=Path("../shared/data/voc-animals"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    here = Path(__file__).parent
    threads = {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    for name in options.only:
        print(f"--- {name}", flush=True)
        command = [sys.executable, str(here / f"{name}.py"), "--photos", str(options.photos), "--out", str(options.out)]
        subprocess.run(command, check=True, env={**os.environ, **threads})
    subprocess.run([sys.executable, str(here / "table.py"), "--results", str(options.out)], check=True)


if __name__ == "__main__":
    main()
