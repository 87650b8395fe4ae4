"""Lines that the logger plugin writes about each of Snakemake's events, and the functions that the Snakefile calls."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.logging import ColorizingTextHandler, LoggerManager
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

import snakemake_logger_plugin_hsfm as plugin
from hsfm.core.progress import BARS, CLEAR, QUIET

ROOT = Path(__file__).parents[2]
CHOSEN = {"hsfm": LogHandlerSettingsBase()}  # logger: [hsfm]
USUAL = OutputSettings(log_handler_settings=CHOSEN)
UNUSUAL = [{"verbose": True}, {"quiet": {"all"}}, {"debug_dag": True}, {"printshellcmds": True}, {"dryrun": True}]


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
    handler.text(record(LogEvent.RUN_INFO, stats={"fit_dfr": 3, "score_heads": 1, "all": 1, "total": 5}))
    return handler


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Put back what `start` changes in this process."""
    for name in (BARS, QUIET, "NO_COLOR"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin, "FAILED", {})
    yield
    plugin.LOGGER.removeFilter(plugin.watch)


def without_clock(text: str) -> str:
    return text.split("  ", 1)[1]


# Records --------------------------------------------------------------------------------------------------------------


def test_the_plan_counts_jobs_that_say_something():
    handler = plugin.LogHandler(USUAL, None)
    plan = record(LogEvent.RUN_INFO, stats={"fit_dfr": 3, "all": 1, "describe": 1, "total": 5})
    assert handler.text(plan) == "3 jobs; what each says lies in logs/"
    for more in ({"cores": 2}, {}, {"provided_resources": "gpu=1"}):
        assert handler.text(record(LogEvent.RESOURCES_INFO, "Provided", **more)) == ""
    assert handler.text(plan) == "3 jobs on 2 cores; what each says lies in logs/"
    assert handler.text(record(LogEvent.RUN_INFO, stats={"all": 1, "total": 1})) == ""


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("Missing output files: a", ""),
        ("Missing output files: a; Input files updated by another job: b", ""),
        ("Input files updated by another job: b", ""),
        ("Input files updated by another job: b; Forced execution", ": Forced execution"),
        ("Updated input files: a, b; Forced execution", ": Updated input files: a, b"),
        (f"Updated input files: {'x' * 60} {'y' * 60}", f": Updated input files: {'x' * 60}..."),
    ],
)
def test_a_start_has_a_reason_where_it_is_new(handler, reason, shown):
    assert without_clock(handler.text(job(7, reason))) == f"Fitting DFR on minibirds (1 of 4){shown}"


def test_a_job_keeps_its_number_when_it_starts_again(handler):
    numbers = [handler.text(job(number)).split("(")[1] for number in (7, 3, 7)]
    assert numbers == ["1 of 4)", "2 of 4)", "1 of 4)"]
    assert handler.text(job(9, message=None)) == "", "a rule without a message"


def test_a_failure_shows_the_ends_of_logs_and_what_the_scheduler_said(handler, tmp_path):
    full, empty, absent = (tmp_path / name for name in ("full.log", "empty.log", "absent.log"))
    full.write_text("".join(f"line {n}\n" for n in range(20)))
    empty.touch()
    handler.text(job(7))
    lines = handler.text(failure(7, f"{full} (send to storage)", empty, absent, said="OUT_OF_MEMORY\non n1")).split(
        "\n"
    )
    assert without_clock(lines[0]) == "Error in rule fit_dfr (Fitting DFR on minibirds)"
    assert lines[1:4] == ["    OUT_OF_MEMORY", "    on n1", f"    {full} ends:"]
    assert lines[4:-2] == [f"      line {n}" for n in range(8, 20)]
    assert lines[-2:] == [f"    {empty} is empty", f"    {absent} was not written"]
    assert without_clock(handler.text(failure(8))) == "Error in rule fit_dfr", "one that was never announced"


@pytest.mark.parametrize(
    "event", ["JOB_FINISHED", "JOB_STARTED", "PROGRESS", "SHELLCMD", "WORKFLOW_STARTED", "GROUP_INFO"]
)
def test_other_events_are_not_shown(handler, event):
    assert handler.text(record(LogEvent[event], "Finished jobid: 1")) == ""


def test_messages_and_errors_are_shown_but_for_chatter(handler):
    assert handler.text(record(message="Nothing to be done")) == "Nothing to be done"
    assert handler.text(record(LogEvent.ERROR, "WorkflowError: no", logging.ERROR)) == "WorkflowError: no"
    for message in ("Select jobs to execute...", "Complete log(s): a"):
        assert handler.text(record(message=message)) == ""
    assert handler.text(record(LogEvent.ERROR, 'CalledProcessError in file "a"', logging.ERROR)) == ""


# The stream -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terminal", "kind", "nocolor", "written"),
    [
        (True, "xterm", False, f"{CLEAR}\033[31mno\033[0m\n"),
        (True, "xterm", True, f"{CLEAR}no\n"),
        (True, "dumb", False, f"{CLEAR}no\n"),
        (False, "xterm", False, "no\n"),
    ],
)
def test_a_line_clears_the_bars_and_has_a_color_in_one_write(monkeypatch, terminal, kind, nocolor, written):
    writes = []
    stream = SimpleNamespace(write=writes.append, flush=lambda: None, isatty=lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", kind)
    plugin.LogHandler(OutputSettings(nocolor=nocolor), None).emit(record(message="no", level=logging.ERROR))
    assert writes == [written]


def test_a_record_that_cannot_be_read_does_not_end_the_thread_of_handlers(handler, capsys):
    handler.emit(record(LogEvent.JOB_INFO))
    handler.emit(record(message="the next one"))
    assert capsys.readouterr().err.endswith("the next one\n")


@pytest.mark.parametrize("options", [{}, *UNUSUAL])
def test_options_about_output_bring_snakemakes_own_handler(options, capsys):
    manager = LoggerManager(plugin.LOGGER, OutputSettings(log_handler_settings=CHOSEN, **options))
    try:
        own = [handler for handler in plugin.LOGGER.handlers if isinstance(handler, ColorizingTextHandler)]
        assert len(own) == bool(options)
        assert [type(handler) for handler in manager.get_log_handlers()] == [plugin.LogHandler]
        if not options:
            plugin.LOGGER.info("something")
    finally:
        manager.stop()
    assert capsys.readouterr().err == ("" if options else "something\n")


def test_the_plugin_loads_nothing_slow():
    program = "import sys, snakemake_logger_plugin_hsfm; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "pandas", "tqdm", "snakemake"} & set(loaded.stdout.split())


# What the Snakefile calls ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "local", "terminal", "bars"),
    [
        (USUAL, True, True, True),
        (USUAL, False, True, False),
        (USUAL, True, False, False),
        (OutputSettings(), True, True, False),
        *((OutputSettings(log_handler_settings=CHOSEN, **options), True, True, False) for options in UNUSUAL),
    ],
)
def test_jobs_draw_bars_where_our_lines_clear_them(monkeypatch, tmp_path, settings, local, terminal, bars):
    monkeypatch.setenv(BARS, "of an outer run")
    monkeypatch.setattr(plugin, "on_terminal", lambda: terminal)
    plugin.start(SimpleNamespace(output_settings=settings, local_exec=local))
    assert os.environ.get(BARS) == (str(tmp_path / ".snakemake/bars") if bars else None)
    assert (tmp_path / ".snakemake/bars").exists() == bars
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
    monkeypatch.setattr(plugin, "BEGAN", plugin.time.time())
    plugin.start(SimpleNamespace(output_settings=USUAL, local_exec=False))
    for number in failed:
        plugin.LOGGER.handle(failure(number, "earlier.log"))
        plugin.LOGGER.handle(failure(number, f"{number}.log"))
    plugin.LOGGER.handle(failure(99, "99.log"))
    plugin.LOGGER.handle(record(LogEvent.JOB_FINISHED, job_id=99))
    plugin.log_failures(["own.log"])
    assert caplog.messages[-1].splitlines()[0] == said


def test_the_end_names_the_files_that_were_asked_for(caplog, tmp_path):
    dag = SimpleNamespace(jobs=[], targetfiles=[f"{n}.parquet" for n in range(7)])
    with caplog.at_level(logging.INFO, plugin.LOGGER.name):
        plugin.log_results(SimpleNamespace(dag=dag))
    lines = caplog.messages[-1].splitlines()
    assert lines[:-1] == [*(str(tmp_path / f"{n}.parquet") for n in range(5)), "and 2 more"]
    assert lines[-1].startswith("Done in ")


def test_a_markdown_table_as_columns():
    rows = [
        "| Method | Labels | a | b |",
        "|---|---|---:|---:|",
        "| **DFR** | no | <u>90.1</u> ± 1 | |",
        "| x | - | 1 | 22 |",
    ]
    table = "\n".join([*rows, "", "Note"])
    assert plugin.aligned(table) == [
        "Method  Labels         a   b",
        "DFR     no      90.1 ± 1",
        "x       -              1  22",
    ]
