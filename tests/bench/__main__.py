"""Measure on a real node and write the tables into docs/benchmarks.md: `make bench`, or `make bench ONLY=rollback`.

It takes about twenty minutes and wants root and a machine that does little else. Each benchmark compares within one
run; absolute times are of the machine at hand.
"""

import argparse
import re
from pathlib import Path

import footprint
import predictions
import quietness
import readiness
import rollback
from figures import Table
from installation import installed

PAGE = Path(__file__).resolve().parents[2] / "docs/benchmarks.md"

BENCHMARKS = {
    "predictions": predictions.measure,
    "rollback": rollback.measure,
    "readiness": readiness.measure,
    "quietness": quietness.measure,
    "footprint": footprint.measure,
}


def main() -> None:
    """Run the benchmarks that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(BENCHMARKS)}")
    names = parser.parse_args().name or list(BENCHMARKS)
    with installed() as bench:
        for name in names:
            table = BENCHMARKS[name](bench)
            print(f"\n{name}\n{table.to_markdown()}\n", flush=True)
            write(name, table)


def write(name: str, table: Table) -> None:
    """Put a table between its marks in the page."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = f"{begin}\n{table.to_markdown()}\n{end}"
    PAGE.write_text(re.sub(f"{begin}.*?{end}", lambda _: text, PAGE.read_text(), flags=re.S))


if __name__ == "__main__":
    main()
