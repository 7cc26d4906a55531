"""The benchmark of retrieval runs, with and without its peers."""

import json
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "retrieval.py"
FAMILIES = "KMeansCells", "SimHash", "CrossPolytope"


def test_quick(tmp_path):
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(out)]
    subprocess.run(command, check=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    for family in FAMILIES:
        of_family = [row for row in rows if row["method"] == family]
        assert [row["recall"] for row in of_family] == [0.8, 0.9, 0.95]
        assert all(row["us"] > 0 and row["size"] for row in of_family)
        assert all(row["threads"] == 1 for row in of_family)
