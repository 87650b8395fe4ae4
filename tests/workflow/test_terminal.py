"""Output that a user sees while the workflow runs and when it has ended, in a terminal and in a file."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests import terminal
from tests.repository import MINIMAL, RUN, copy_repository, environment, snakemake

TIME = r"\d\d:\d\d:\d\d"
DFR = f"{RUN}/dfr/heads.safetensors"
BEGINNING = (  # before Snakemake has read the Snakefile
    "Using workflow specific profile", "Config file config/config.yaml is extended", "Assuming unrestricted",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy in which one test goes on from where another has come."""
    return copy_repository(tmp_path_factory.mktemp("terminal") / "hsfm")


def said(out: str) -> list[str]:
    """The lines of a run, without how Snakemake begins."""
    return [line for line in out.splitlines() if line and not line.startswith(BEGINNING)]


def test_a_run_is_a_line_per_start_and_end_and_says_what_was_asked_for(folder):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *MINIMAL, "--", DFR]
    written = terminal.run(command, folder=folder, environment=environment(folder))
    lines = said("\n".join(terminal.screen(written)))
    starts = [line for line in lines if re.fullmatch(rf"{TIME}  \S.* \(\d of 5\).*", line)]
    ends = [line for line in lines if re.match(rf"{TIME}    \S", line)]
    assert lines[0] == "5 jobs; what each says lies in logs/"
    assert [re.search(r"\d of 5", line)[0] for line in starts] == [f"{n} of 5" for n in range(1, 6)]
    who = [re.sub(rf"{TIME} +", "", line).split(":")[0] for line in ends]
    assert (who[:2], who[-1]) == (["Images minibirds", "ERM minibirds run 0"], "DFR minibirds run 0")
    assert sorted(who[2:-1]) == ["ERM minibirds run 0", "Embeddings minibirds run 0 erm"], "side by side"
    # one target was asked for: no table, no folders
    assert lines[-2] == str((folder / DFR).resolve())
    assert re.fullmatch(r"Done in .* s\.", lines[-1])
    assert len(lines) == 1 + 5 + 5 + 2, "and nothing else"
    record = json.loads((folder / "logs/minibirds/run0/fit_dfr.json").read_text())
    assert ends[-1].endswith(record["summary"])
    assert record["summary"] in (folder / "logs/minibirds/run0/fit_dfr.log").read_text()
    # Snakemake's own log has all that it has to say
    assert "Finished jobid" in next((folder / ".snakemake/log").glob("*.log")).read_text()


def test_the_main_table_stands_at_the_end_of_a_whole_run(folder):
    out = snakemake(folder, *MINIMAL, "--config", "methods=[erm, dfr]").stdout
    lines = said(out)
    table = lines[lines.index(next(line for line in lines if line.startswith("Method  "))) :]
    assert re.fullmatch(r"Method +Group labels +minibirds: worst group +minibirds: average", table[0])
    assert re.fullmatch(r"ERM +no +[\d.]+ \[[\d. to]+\] +[\d.]+", table[1])
    assert re.fullmatch(r"DFR +val, to train +[\d.]+ ± [\d.]+ \[[\d. to]+\] +[\d.]+ ± [\d.]+", table[2])
    assert table[-3:-1] == [f"Tables:  {folder / 'results/tables'}", f"Figures: {folder / 'results/figures'}"]
    assert table[-1].startswith("Done in ")


def test_a_failure_shows_the_end_of_its_log_and_which_to_look_into(folder):
    val = folder / RUN / "erm/embeddings/val.parquet"
    val.write_bytes(val.read_bytes()[:-50])
    done = snakemake(folder, *MINIMAL, "--forcerun", "fit_dfr", "--", DFR, check=False)
    lines = said(done.stdout)
    assert re.fullmatch(rf"{TIME}  Fitting DFR on minibirds, run 0 \(1 of 1\): Forced execution", lines[1])
    assert re.match("ERROR: .*val.parquet: not a readable Parquet file", lines[2])
    rest = "\n".join(lines[3:])
    assert re.match(
        rf"{TIME}  Error in rule fit_dfr \(Fitting DFR on minibirds, run 0\)\n    logs/\S+fit_dfr.log ends:", rest
    )
    assert re.search(r"^A job failed after .*: look into logs/minibirds/run0/fit_dfr.log\.$", rest, re.MULTILINE)
    assert "CalledProcessError" not in done.stdout
    assert not (folder / "logs/minibirds/run0/fit_dfr.json").exists()
