"""Snakemake logger plugin `hsfm`: a line for each job that starts, and the end of the log of each that fails.

`logger: [hsfm]` in a profile switches it on. What the Snakefile calls, `start`, `log_results` and `log_failures`, works
with any logger. Every start of Snakemake imports this module, for other workflows as well: it imports nothing slow, and
hsfm itself only when it is used.
"""

import logging
import os
import re
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import OutputSettingsLoggerInterface

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

CHATTER = (
    *("Building DAG of jobs...", "Using shell: ", "Conda environments: ignored", "Singularity containers: ignored"),
    *("Select jobs to execute...", "Group jobs: inactive", "Complete log(s): ", "Elapsed time: "),
)
ABSENT, JUST_BEFORE = "Missing output files: ", "Input files updated by another job: "  # reasons that tell nothing new
END_OF_LOG = 12  # lines
NAMED = 5  # files at most
BEGAN = time.time()
LOGGER = logging.getLogger("snakemake.logging")
FAILED: dict[int, list[str]] = {}  # logs of the jobs that failed and have not succeeded since, by id


class LogHandler(LogHandlerBase):
    """Writer to standard error that never breaks a bar of `hsfm.core.progress`."""

    writes_to_file = needs_rulegraph = False
    has_filter = has_formatter = True  # of Snakemake's own, --quiet rules would hide errors as well

    def __post_init__(self) -> None:
        self.jobs: dict[int, tuple[int, str]] = {}  # by id: number in the order of starts, message
        self.total, self.where = 0, ""

    @property
    def writes_to_stream(self) -> bool:
        return is_usual(self.common_settings)  # otherwise Snakemake adds its own handler

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.text(record) if self.writes_to_stream else ""
            if text:
                color = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m"}.get(record.levelno)
                if color and on_terminal() and not self.common_settings.nocolor:
                    text = f"{color}{text}\033[0m"
                from hsfm.core.progress import CLEAR

                # in one write, or a bar could come in between
                sys.stderr.write(f"{CLEAR if sys.stderr.isatty() else ''}{text}\n")
                sys.stderr.flush()
        except Exception:  # would end the thread of all plugins' handlers
            self.handleError(record)

    def text(self, record: logging.LogRecord) -> str:
        """Lines about a record, empty where there is nothing to say."""
        event, clock = getattr(record, "event", None), time.strftime("%H:%M:%S", time.localtime(record.created))
        if event == LogEvent.RESOURCES_INFO and hasattr(record, "cores"):  # not where jobs are sent elsewhere
            self.where = f" on {record.cores} cores"
        if event == LogEvent.RUN_INFO:
            self.total = sum(n for rule, n in record.stats.items() if rule not in ("total", "all", "describe"))
            return f"{self.total} jobs{self.where}; what each says lies in logs/" if self.total else ""
        if event == LogEvent.JOB_INFO:
            return f"{clock}  {self.start_of(record)}" if record.rule_msg else ""
        if event == LogEvent.JOB_ERROR:
            return f"{clock}  {self.failure_of(record)}"
        message = record.getMessage()
        minor = record.levelno < logging.WARNING and (event is not None or message.startswith(CHATTER))
        return "" if minor or "CalledProcessError in file" in message else message

    def start_of(self, record: logging.LogRecord) -> str:
        number, message = self.jobs.setdefault(record.jobid, (len(self.jobs) + 1, record.rule_msg))
        reasons = [reason for reason in record.reason.split("; ") if reason and not reason.startswith(JUST_BEFORE)]
        told = reasons and not record.reason.startswith(ABSENT)
        why = f": {textwrap.shorten(reasons[0], 100, placeholder='...')}" if told else ""
        return f"{message} ({number} of {self.total}){why}"

    def failure_of(self, record: logging.LogRecord) -> str:
        message = f" ({self.jobs[record.jobid][1]})" if record.jobid in self.jobs else ""
        scheduler = [f"    {line}" for line in (record.rule_msg or "").splitlines()]
        ends = [line for log in logs_of(record) for line in end_of(log)]
        return "\n".join([f"Error in rule {record.rule_name}{message}", *scheduler, *ends])


def is_usual(settings: OutputSettingsLoggerInterface) -> bool:
    """Whether no option asks for more or less output than usual; otherwise Snakemake's own is shown."""
    return not (settings.verbose or settings.quiet or settings.debug_dag or settings.printshellcmds or settings.dryrun)


def on_terminal() -> bool:
    """Whether standard error understands colors and movements of the cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def logs_of(record: logging.LogRecord) -> list[str]:
    """Names of a failed job's logs, without Snakemake's remarks on where they are stored."""
    return [re.sub(r" \((?:send|retrieve|cached|update).*\)$", "", str(file)) for file in record.log]


def end_of(log: str) -> list[str]:
    if not os.path.exists(log):
        return [f"    {log} was not written"]
    lines = Path(log).read_text(errors="replace").splitlines()[-END_OF_LOG:]
    return [f"    {log} ends:", *(f"      {line}" for line in lines)] if lines else [f"    {log} is empty"]


# What the Snakefile calls ---------------------------------------------------------------------------------------------


def start(workflow: "Workflow") -> None:
    """Watch for failures, and tell jobs through the environment whether to draw bars or to be quiet."""
    from hsfm.core.progress import BARS, QUIET

    LOGGER.addFilter(watch)
    settings = workflow.output_settings
    os.environ.update({name: "yes" for name, on in ((QUIET, settings.quiet), ("NO_COLOR", settings.nocolor)) if on})
    os.environ.pop(BARS, None)
    if "hsfm" in settings.log_handler_settings and is_usual(settings) and workflow.local_exec and on_terminal():
        bars = Path(".snakemake/bars").resolve()
        bars.mkdir(parents=True, exist_ok=True)
        os.environ[BARS] = str(bars)


def watch(record: logging.LogRecord) -> bool:
    """Keep `FAILED` up to date; a filter of the logger, since plugins' handlers get records only later."""
    event = getattr(record, "event", None)
    if event == LogEvent.JOB_ERROR:
        FAILED[record.jobid] = logs_of(record)
    elif event == LogEvent.JOB_FINISHED:
        FAILED.pop(record.job_id, None)
    return True


def log_results(workflow: "Workflow") -> None:
    """Log the main table where it was asked for, otherwise the files that were, and the duration."""
    made = {str(file) for job in workflow.dag.jobs for file in job.output}
    lines = first(sorted(str(Path(file).resolve()) for file in workflow.dag.targetfiles))
    if "results/tables/main.md" in made:
        lines = ["", *aligned(Path("results/tables/main.md").read_text()), ""]
        lines += [f"Report:  {Path('results/report.html').resolve()}"] if "results/report.html" in made else []
        lines += [f"Tables:  {Path('results/tables').resolve()}", f"Figures: {Path('results/figures').resolve()}"]
    LOGGER.info("\n".join([*lines, f"Done in {elapsed()}."]))


def log_failures(log: list[str]) -> None:
    """Log which logs of jobs to look into; Snakemake's own where no job failed."""
    jobs = {0: "The workflow", 1: "A job"}.get(len(FAILED), f"{len(FAILED)} jobs")
    logs = [name for names in FAILED.values() for name in names] or log
    LOGGER.error(
        f"{jobs} failed after {elapsed()}: look into {', '.join(first(logs))}.\n"
        "What did not depend on that is done and stays; the same command goes on from there."
    )


def elapsed() -> str:
    from hsfm.core.progress import duration

    return duration(time.time() - BEGAN)


def first(names: list[str]) -> list[str]:
    return names if len(names) <= NAMED else [*names[:NAMED], f"and {len(names) - NAMED} more"]


def aligned(table: str) -> list[str]:
    """Rows of a Markdown table as columns of text, without bold and underlined."""
    text = re.sub(r"\*\*|</?u>", "", table)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    if len(rows) < 2:  # what `--touch` took for it, say
        return []
    signs = [">" if cell.endswith(":") else "<" for cell in rows.pop(1)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{s}{w}}" for cell, s, w in zip(row, signs, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]
