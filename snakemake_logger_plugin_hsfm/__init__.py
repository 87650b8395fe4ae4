"""Snakemake logger plugin `hsfm`: a line for each job that starts, and the end of the log of each that fails.

`logger: [hsfm]` in a profile switches it on. Every start of Snakemake imports this module, for other workflows as well:
it imports nothing slow, and hsfm itself only when it is used.
"""

import itertools
import logging
import os
import re
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import OutputSettingsLoggerInterface

CHATTER = (
    *("Building DAG of jobs...", "Using shell: ", "Conda environments: ignored", "Singularity containers: ignored"),
    *("Select jobs to execute...", "Group jobs: inactive", "Complete log(s): ", "Elapsed time: "),
)
OBVIOUS = ("Missing output files: ", "Input files updated by another job: ")  # reasons that tell nothing new
PARAMS = "Params have changed since last execution"  # what follows are hashes and whole sections of settings
END_OF_LOG = 12  # lines
NAMED = 5  # files at most
BEGAN = time.time()
LOGGER = logging.getLogger("snakemake.logging")
FAILED: dict[int, list[str]] = {}  # logs of the jobs that failed and have not succeeded since, by id


def check_cache() -> None:
    """End with one line where Snakemake's cache, below the home, takes no files; what follows would be a traceback."""
    from snakemake.common import get_appdirs

    cache = Path(get_appdirs().user_cache_dir)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        problem = None if os.access(cache, os.W_OK) else "read-only"
    except OSError as error:
        problem = error.strerror
    if problem:
        _end(f"{cache}: Snakemake cannot write there ({problem}); run XDG_CACHE_HOME=FOLDER snakemake ...")


def _end(problem: str) -> None:
    print(f"ERROR: {problem}", file=sys.stderr)
    sys.exit(1)


def check_config_files(arguments: Sequence[str]) -> None:
    """End with one line where a file after --configfile is missing or no YAML; Snakemake's error names no line."""
    import yaml

    places = [place + 1 for place, word in enumerate(arguments) if re.fullmatch("--configfiles?", word)]
    files = [itertools.takewhile(lambda word: not word.startswith("-"), arguments[place:]) for place in places]
    for file in itertools.chain(*files):
        try:
            with open(file, encoding="utf-8") as opened:
                yaml.compose(opened, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, UnicodeDecodeError) as error:
            _end(f"{file}: {getattr(error, 'strerror', None) or error}")
        except yaml.YAMLError as error:
            at = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or str(error)
            _end(f"{file}{f', line {at.line + 1}' if at else ''}: {problem}")


class LogHandler(LogHandlerBase):
    """Writer of a line per event to standard error."""

    writes_to_file = needs_rulegraph = False
    has_filter = has_formatter = True  # of Snakemake's own, --quiet rules would hide errors as well

    def __post_init__(self) -> None:
        if "--mode" not in sys.argv:  # which jobs have, whose node may need no cache
            check_cache()
            check_config_files(sys.argv)
        self.jobs: dict[int, tuple[int, str]] = {}  # by id: number in the order of starts, message
        self.total = 0

    @property
    def writes_to_stream(self) -> bool:
        return is_usual(self.common_settings)  # otherwise Snakemake adds its own handler

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.writes_to_stream and (text := self.text(record)):
                from hsfm.core.progress import say

                say(text, color={logging.WARNING: 33, logging.ERROR: 31}.get(record.levelno))
        except Exception:  # would end the thread of all plugins' handlers
            self.handleError(record)

    def text(self, record: logging.LogRecord) -> str:
        """Lines about a record, empty where there is nothing to say."""
        event, clock = getattr(record, "event", None), time.strftime("%H:%M:%S", time.localtime(record.created))
        if event == LogEvent.RUN_INFO:
            self.total = sum(n for rule, n in record.stats.items() if rule not in ("total", "all", "describe"))
            return f"{self.total} jobs; what each says lies in logs/" if self.total else ""
        if event == LogEvent.JOB_INFO and record.rule_msg:
            number, message = self.jobs.setdefault(record.jobid, (len(self.jobs) + 1, record.rule_msg))
            reasons = [reason for reason in record.reason.split("; ") if reason and not reason.startswith(OBVIOUS)]
            why = f": {reason_in_words(reasons[0])}" if reasons else ""
            return f"{clock}  {message} ({number} of {self.total}){why}"
        if event == LogEvent.JOB_ERROR:
            message = f" ({self.jobs[record.jobid][1]})" if record.jobid in self.jobs else ""
            return "\n".join([f"{clock}  Error in rule {record.rule_name}{message}", *ends_of_logs(record)])
        message = record.getMessage()
        minor = record.levelno < logging.WARNING and (event is not None or message.startswith(CHATTER))
        return "" if minor or "CalledProcessError in file" in message else message


def reason_in_words(reason: str) -> str:
    """Snakemake's reason to run a job, short enough for the end of a line."""
    if reason.startswith(PARAMS):
        return "settings or code changed"
    return textwrap.shorten(reason, 100, placeholder="...")


def ends_of_logs(record: logging.LogRecord) -> list[str]:
    """Words of the scheduler about a job that failed, and the last lines of its logs."""
    lines = [f"    {line}" for line in (record.rule_msg or "").splitlines()]
    for log in map(Path, logs_of(record)):
        end = log.read_text(errors="replace").splitlines()[-END_OF_LOG:] if log.exists() else []
        lines += [f"    {log} ends:" if end else f"    {log} is empty", *(f"      {line}" for line in end)]
    return lines


def logs_of(record: logging.LogRecord) -> list[str]:
    """Names of a failed job's logs, without Snakemake's remark on where they are stored."""
    return [str(file).removesuffix(" (send to storage)") for file in record.log]


def is_usual(settings: OutputSettingsLoggerInterface) -> bool:
    """Whether no option asks for more or less output than usual; otherwise Snakemake's own is shown."""
    return not (settings.verbose or settings.quiet or settings.debug_dag or settings.printshellcmds or settings.dryrun)


# What the Snakefile calls, with any logger ----------------------------------------------------------------------------


def start(workflow: Any) -> None:
    """Watch for failures, and tell jobs through the environment whether one may draw a bar, and whether to be quiet."""
    from hsfm.core.progress import BAR, QUIET

    LOGGER.addFilter(watch)
    settings = workflow.output_settings
    os.environ |= {name: "yes" for name, on in ((QUIET, settings.quiet), ("NO_COLOR", settings.nocolor)) if on}
    if "hsfm" in settings.log_handler_settings and is_usual(settings) and workflow.local_exec:
        os.environ[BAR] = str(Path(".snakemake/bar.lock").resolve())


def watch(record: logging.LogRecord) -> bool:
    """Keep `FAILED` up to date; a filter of the logger, since plugins' handlers get records only later."""
    event = getattr(record, "event", None)
    if event == LogEvent.JOB_ERROR:
        FAILED[record.jobid] = logs_of(record)
    elif event == LogEvent.JOB_FINISHED:
        FAILED.pop(record.job_id, None)
    return True


def log_results(workflow: Any) -> None:
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
    from hsfm.core.text import duration

    return duration(time.time() - BEGAN)


def first(names: list[str]) -> list[str]:
    return names if len(names) <= NAMED else [*names[:NAMED], f"and {len(names) - NAMED} more"]


def aligned(table: str) -> list[str]:
    """Rows of a Markdown table as columns of text, without bold and underlined."""
    lines = re.sub(r"\*\*|</?u>", "", table).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    del rows[1:2]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
