"""The table of every benchmark's JSON file: target, measured, met or not.

python benchmarks/table.py
"""

import argparse
import json
from pathlib import Path
from typing import Any

from measuring import RESULTS

ORDER = ("crf", "walks", "maps", "masks", "sweep", "training", "startup", "index")
HEAD = """# Benchmarks

Written by `benchmarks/table.py` from the JSON files beside it; `make bench` measures them anew. Ratios are of turns
taken one after the other in one run; the median is judged, the least and the largest stand in brackets. What was left
out, what a row that is missed spends its time on and what was tried is in [the README](../README.md).

| work | measure | target | median (range) | repeats | met | commit |
|---|---|---|---|---|---|---|
"""


def line(row: dict[str, Any], commit: str) -> str:
    """One row in Markdown."""
    found = row["measured"]
    numbers = f"{found['median']:.4g} ({found['min']:.4g} to {found['max']:.4g})"
    measure = f"{row['measure']}; {row['note']}" if row.get("note") else row["measure"]
    verdict = "yes" if row["met"] else "**no**"
    return f"| {row['work']} | {measure} | {row['target']} | {numbers} | {row['repeats']} | {verdict} | {commit} |"


def table(folder: Path) -> str:
    """The whole page."""
    files = [folder / f"{name}.json" for name in ORDER if (folder / f"{name}.json").is_file()]
    contents = [json.loads(file.read_text()) for file in files]
    lines = [line(row, content["commit"]) for content in contents for row in content["rows"]]
    rows = [row for content in contents for row in content["rows"]]
    processors = sorted({content["processor"] for content in contents})
    met = (
        f"{sum(row['met'] for row in rows)} of {len(rows)} rows are met. Processor: {', '.join(processors)}, two cores."
    )
    return HEAD + "\n".join(lines) + "\n\n" + met + "\n"


def main() -> None:
    """Write ``table.md``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    (options.results / "table.md").write_text(table(options.results))


if __name__ == "__main__":
    main()
