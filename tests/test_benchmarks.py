import subprocess
import sys
from pathlib import Path

from benchmarks import meta
from hsfm.meta import Shared


def test_the_engine_is_timed_against_the_loop(monkeypatch, capsys):
    tiny = (60, 40, 8, 1e-3, Shared(4, 2, 2, 5, 2), (1, 3))
    monkeypatch.setattr(meta, "SHAPES", {"tiny": tiny})
    monkeypatch.setattr(sys, "argv", ["meta"])
    meta.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| tiny")]
    assert [int(row[1]) for row in rows] == [1, 3]
    for row in rows:
        loop, engine, ratio = (float(cell) for cell in row[2:5])
        assert loop > 0
        assert engine > 0
        assert ratio > 0


def test_it_runs_as_a_module():
    root = Path(__file__).parent.parent
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.meta", "--help"], cwd=root, check=True, capture_output=True, text=True
    ).stdout
    assert "--shapes {waterbirds,celeba,minibirds}" in out
