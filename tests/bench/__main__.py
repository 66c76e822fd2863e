"""Measure, and write the tables into docs/benchmarks.md: `make bench`, or `make bench ONLY="rollback streaming"`.

All take about an hour, and want root and a machine that does little else. Each benchmark compares within one run;
absolute times are of the machine at hand.
"""

import argparse
import re
import signal
import sys
from pathlib import Path

import chains
import collection
import conformance
import costs
import endings
import footprint
import generation
import large_checkpoint
import memory
import methods
import overload
import peers
import predictions
import quietness
import readiness
import rollback
import serving
import soak
import speed
import starts
import streaming
from figures import Table
from installation import installed

PAGE = Path(__file__).resolve().parents[2] / "docs/benchmarks.md"

HERE = {
    "methods": methods.measure,
    "speed": speed.measure,
    "memory": memory.measure,
    "streaming": streaming.measure,
    "chains": chains.measure,
    "large_checkpoint": large_checkpoint.measure,
    "peers": peers.measure,
    "serving": serving.measure,
    "conformance": conformance.measure,
    "generation": generation.measure,
    "starts": starts.measure,
    "costs": costs.measure,
    "endings": endings.measure,
    "collection": collection.measure,
    "overload": overload.measure,
    "soak": soak.measure,
}
ON_A_NODE = {
    "predictions": predictions.measure,
    "rollback": rollback.measure,
    "readiness": readiness.measure,
    "quietness": quietness.measure,
    "footprint": footprint.measure,
}


def main() -> None:
    """Run the benchmarks that were named, or all."""
    known = [*HERE, *ON_A_NODE]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(known)}")
    names = parser.parse_args().name or known
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not at once: what was started has to be ended
    for name in names:
        if name in HERE:
            write(name, HERE[name]())
    if wanted := [name for name in names if name in ON_A_NODE]:
        with installed() as bench:
            for name in wanted:
                write(name, ON_A_NODE[name](bench))


def write(name: str, table: Table) -> None:
    """Show a table, and put it between its marks in the page."""
    print(f"\n{name}\n{table.to_markdown()}\n", flush=True)
    if not table.kept:
        return
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = f"{begin}\n{table.to_markdown()}\n{end}"
    PAGE.write_text(re.sub(f"{begin}.*?{end}", lambda _: text, PAGE.read_text(), flags=re.S))


if __name__ == "__main__":
    main()
