"""Lines that the logger plugin writes about each of Snakemake's events, and the functions that the Snakefile calls."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

import snakemake_logger_plugin_hsfm as plugin
from hsfm.core.progress import BAR, QUIET

ROOT = Path(__file__).parents[2]
CHOSEN = {"hsfm": LogHandlerSettingsBase()}  # logger: [hsfm]
USUAL = OutputSettings(log_handler_settings=CHOSEN)


def record(event=None, message="", level=logging.INFO, **attributes) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": level, "created": 0, "event": event, **attributes})


def job(number: int, reason: str = "", message: str | None = "Fitting DFR on minibirds") -> logging.LogRecord:
    return record(LogEvent.JOB_INFO, jobid=number, rule_msg=message, reason=reason)


def failure(number: int, *logs: object, said: str | None = None) -> logging.LogRecord:
    return record(
        LogEvent.JOB_ERROR, level=logging.ERROR, jobid=number, rule_name="fit_dfr", rule_msg=said, log=[*map(str, logs)]
    )


@pytest.fixture
def handler() -> plugin.LogHandler:
    """A handler that knows of 4 jobs."""
    handler = plugin.LogHandler(USUAL, None)
    plan = record(LogEvent.RUN_INFO, stats={"fit_dfr": 3, "score_heads": 1, "all": 1, "total": 5})
    assert handler.text(plan) == "4 jobs; what each says lies in logs/"
    return handler


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Put back what `start` changes in this process."""
    for name in (BAR, QUIET, "NO_COLOR"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin, "FAILED", {})
    yield
    plugin.LOGGER.removeFilter(plugin.watch)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("Missing output files: a; Input files updated by another job: b", ""),
        ("Input files updated by another job: b; Forced execution", ": Forced execution"),
        ("Updated input files: a, b; Forced execution", ": Updated input files: a, b"),
        (f"Updated input files: {'x' * 60} {'y' * 60}", f": Updated input files: {'x' * 60}..."),
        ("Params have changed since last execution: before: <nothing>; now: 'a0f3'", ": settings or code changed"),
    ],
)
def test_a_start_has_a_reason_where_it_is_new(handler, reason, shown):
    assert handler.text(job(7, reason)).split("  ", 1)[1] == f"Fitting DFR on minibirds (1 of 4){shown}"


def test_a_job_keeps_its_number_when_it_starts_again(handler):
    numbers = [handler.text(job(number)).split("(")[1] for number in (7, 3, 7)]
    assert numbers == ["1 of 4)", "2 of 4)", "1 of 4)"]
    assert handler.text(job(9, message=None)) == "", "a rule without a message"


def test_a_failure_shows_the_ends_of_logs_and_what_the_scheduler_said(handler, tmp_path):
    full, absent = tmp_path / "full.log", tmp_path / "absent.log"
    full.write_text("".join(f"line {n}\n" for n in range(20)))
    handler.text(job(7))
    lines = handler.text(failure(7, f"{full} (send to storage)", absent, said="OUT_OF_MEMORY\non n1")).splitlines()
    assert lines[0].endswith("  Error in rule fit_dfr (Fitting DFR on minibirds)")
    assert lines[1:4] == ["    OUT_OF_MEMORY", "    on n1", f"    {full} ends:"]
    assert lines[4:] == [*(f"      line {n}" for n in range(8, 20)), f"    {absent} is empty"]


def test_messages_and_errors_are_shown_but_for_chatter_and_other_events(handler):
    assert handler.text(record(message="Nothing to be done")) == "Nothing to be done"
    assert handler.text(record(LogEvent.ERROR, "WorkflowError: no", logging.ERROR)) == "WorkflowError: no"
    for hidden in (
        *(record(message=message) for message in ("Select jobs to execute...", "Complete log(s): a")),
        record(LogEvent.ERROR, 'CalledProcessError in file "a"', logging.ERROR),
        record(LogEvent.JOB_FINISHED, "Finished jobid: 1"),
    ):
        assert handler.text(hidden) == ""


def test_a_record_that_cannot_be_read_does_not_end_the_thread_of_handlers(handler, capsys):
    handler.emit(record(LogEvent.JOB_INFO))
    handler.emit(record(message="the next one"))
    assert capsys.readouterr().err.endswith("the next one\n")


def test_the_plugin_loads_nothing_slow():
    program = "import sys, snakemake_logger_plugin_hsfm; print(*sys.modules)"
    loaded = subprocess.check_output(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True
    )
    assert not {"torch", "numpy", "pandas", "tqdm", "snakemake"} & set(loaded.split())


@pytest.mark.parametrize(
    "option", [{"verbose": True}, {"quiet": {"rules"}}, {"printshellcmds": True}, {"dryrun": True}]
)
def test_snakemakes_own_output_is_shown_where_an_option_asks_for_it(capsys, option):
    handler = plugin.LogHandler(OutputSettings(log_handler_settings=CHOSEN, **option), None)
    handler.emit(record(message="Nothing to be done"))
    assert not handler.writes_to_stream
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings", "local", "bar"),
    [
        (USUAL, True, True),
        (USUAL, False, False),
        (OutputSettings(), True, False),
        (OutputSettings(log_handler_settings=CHOSEN, quiet={"all"}), True, False),
    ],
)
def test_jobs_draw_a_bar_where_our_lines_clear_it(settings, local, bar):
    plugin.start(SimpleNamespace(output_settings=settings, local_exec=local))
    assert (BAR in os.environ) == bar
    assert os.environ.get(QUIET) == ("yes" if settings.quiet else None)


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ([], "The workflow failed after 0 s: look into own.log."),
        ([7], "A job failed after 0 s: look into 7.log."),
        (range(7), "7 jobs failed after 0 s: look into 0.log, 1.log, 2.log, 3.log, 4.log, and 2 more."),
    ],
)
def test_failures_are_counted_by_job(monkeypatch, caplog, failed, said):
    monkeypatch.setattr(plugin, "elapsed", lambda: "0 s")
    plugin.start(SimpleNamespace(output_settings=USUAL, local_exec=False))
    for number in (*failed, 99):
        plugin.LOGGER.handle(failure(number, f"{number}.log (send to storage)"))
    plugin.LOGGER.handle(record(LogEvent.JOB_FINISHED, job_id=99))
    plugin.log_failures(["own.log"])
    assert caplog.messages[-1].splitlines()[0] == said
