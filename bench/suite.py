"""Sum up how long the tests took, by folder, from a report that pytest wrote.

    make test ARGS=--junitxml=report.xml
    python bench/suite.py report.xml

The seconds are those of the tests themselves. Where several processes run them side by side, the
suite takes less than their sum.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

SLOWEST = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Sum up how long the tests took, by folder.")
    parser.add_argument("report", type=Path, help="what pytest's --junitxml wrote")
    parser.add_argument("--json", action="store_true", help="print the folders' seconds as JSON")
    given = parser.parse_args()
    folders: defaultdict[str, list[float]] = defaultdict(list)
    tests: list[tuple[float, str]] = []
    suite = ET.parse(given.report).getroot()
    for case in suite.iter("testcase"):
        seconds, module = float(case.attrib["time"]), case.attrib["classname"]
        folder = "/".join(module.split(".")[1:-1]) or "tests"
        folders[folder].append(seconds)
        tests.append((seconds, f"{module}::{case.attrib['name']}"))
    by_time = sorted(folders.items(), key=lambda item: -sum(item[1]))
    if given.json:
        print(json.dumps({folder: round(sum(each), 1) for folder, each in by_time}))
        return
    print(f"{'folder':20}{'tests':>7}{'seconds':>10}")
    for folder, each in by_time:
        print(f"{folder:20}{len(each):7}{sum(each):10.1f}")
    print(f"{'all':20}{len(tests):7}{sum(seconds for seconds, _ in tests):10.1f}\n")
    for seconds, name in sorted(tests, reverse=True)[:SLOWEST]:
        print(f"{seconds:8.1f}  {name}")


if __name__ == "__main__":
    main()
