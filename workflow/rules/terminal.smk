import logging
import os
import re
import sys
import time

from snakemake.logging import ColorizingTextHandler, logger
from snakemake_interface_logger_plugins.common import LogEvent

from hsfm.core.progress import BARS, CLEAR, QUIET, duration

# What a user sees while it runs -----------------------------------------------------------------------------------------

# Of Snakemake's own --quiet, `rules` would hide errors as well, and `progress` the plan of a dry run.

UNSAID = (
    *(LogEvent.WORKFLOW_STARTED, LogEvent.RESOURCES_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED),
    *(LogEvent.PROGRESS, LogEvent.RULEGRAPH, LogEvent.SHELLCMD, LogEvent.DEBUG_DAG),
)
CHATTER = (
    *("Building DAG of jobs...", "Using shell: ", "Conda environments: ignored", "Singularity containers: ignored"),
    *("Select jobs to execute...", "Group jobs: inactive", "Complete log(s): ", "Elapsed time: "),
)
ABSENT, JUST_BEFORE = "Missing output files: ", "Input files updated by another job: "  # reasons that tell nothing new
END_OF_LOG = 12  # lines
NAMED = 5  # logs of failed jobs


class Failures(logging.Handler):
    """Keeps the logs of jobs that failed."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def emit(self, record):
        if getattr(record, "event", None) == LogEvent.JOB_ERROR:
            self.logs += [log for log in plain(record.log) if log not in self.logs]


class Terminal(logging.Handler):
    """A line for each job that starts, whatever goes wrong in a few; none of these breaks a bar of hsfm.core.progress."""

    def __init__(self, stream, coloured):
        super().__init__()
        self.stream, self.coloured = stream, coloured
        self.jobs, self.total = {}, 0

    def emit(self, record):
        text = self.text(record)
        if text:
            # in one write, or a bar could come in between
            self.stream.write((CLEAR if self.stream.isatty() else "") + self.in_colour(text, record.levelno) + "\n")
            self.stream.flush()

    def in_colour(self, text, level):
        colour = 31 if level >= logging.ERROR else 33 if level >= logging.WARNING else None
        return f"\033[{colour}m{text}\033[0m" if self.coloured and colour else text

    def text(self, record):
        """What is said about a record, if anything."""
        event = getattr(record, "event", None)
        if event in UNSAID:
            return ""
        if event == LogEvent.RUN_INFO:
            self.total = sum(n for rule, n in record.stats.items() if rule not in ("total", "all", "describe"))
            cores = workflow.resource_settings.cores  # none where jobs are sent elsewhere
            where = "" if cores is None else f" on {cores} cores"
            return f"{self.total} jobs{where}; what each says lies in logs/" if self.total else ""
        if event == LogEvent.JOB_INFO:
            return self.start_of(record) if record.rule_msg else ""
        if event == LogEvent.JOB_ERROR:
            return self.failure_of(record)
        message = record.getMessage() if record.msg is not None else ""
        if message.startswith(CHATTER) or "CalledProcessError in file" in message:
            return ""
        return message

    def start_of(self, record):
        self.jobs.setdefault(record.jobid, (len(self.jobs) + 1, record.rule_msg))
        reasons = [one for one in record.reason.split("; ") if one and not one.startswith(JUST_BEFORE)]
        why = f": {shortened(reasons[0])}" if reasons and not record.reason.startswith(ABSENT) else ""
        return f"{now()}  {record.rule_msg} ({self.jobs[record.jobid][0]} of {self.total}){why}"

    def failure_of(self, record):
        _, message = self.jobs.get(record.jobid, (0, ""))
        lines = [f"{now()}  Error in rule {record.rule_name}" + (f" ({message})" if message else "")]
        lines += [f"    {line}" for line in (record.rule_msg or "").splitlines()]  # a scheduler's word
        for log in plain(record.log):
            if os.path.exists(log):
                with open(log, errors="replace") as file:
                    end = file.read().splitlines()[-END_OF_LOG:]
                lines += [f"    {log} ends:", *(f"      {line}" for line in end)] if end else [f"    {log} is empty"]
            else:
                lines.append(f"    {log} was not written")
        return "\n".join(lines)


def now():
    return time.strftime("%H:%M:%S")


def shortened(text):
    return text if len(text) <= 100 else f"{text[:97]}..."


def plain(files):
    """Names without what Snakemake says of where they lie."""
    return [re.sub(r" \((?:send|retrieve|cached|update).*\)$", "", str(file)) for file in files]


FAILURES = Failures()


def speak_plainly():
    """Put `Terminal` in place of Snakemake's own handler, unless an option asks for more or for less than usual."""
    logger.addHandler(FAILURES)
    os.environ.pop(BARS, None)
    settings = workflow.output_settings
    if settings.quiet:
        os.environ.update({QUIET: "yes"})
    own = [handler for handler in logger.handlers if isinstance(handler, ColorizingTextHandler)]
    unusual = settings.verbose or settings.quiet or settings.debug_dag or settings.printshellcmds or settings.dryrun
    if unusual or not own:
        return
    (own,) = own
    logger.removeHandler(own)
    logger.addHandler(Terminal(own.stream, not own.nocolor))
    if own.nocolor:
        os.environ.update(NO_COLOR="yes")
    if own.stream is sys.stderr and own.is_tty and os.environ.get("TERM") != "dumb" and workflow.local_exec:
        bars = Path(".snakemake", "bars")
        bars.mkdir(parents=True, exist_ok=True)
        os.environ.update({BARS: str(bars.resolve())})


if workflow.is_main_process:
    speak_plainly()

# What a user sees at the end --------------------------------------------------------------------------------------------

BEGAN = time.time()


def say_what_was_made():
    """The main table where it was asked for, and where to look."""
    made = {str(file) for job in workflow.dag.jobs for file in job.output}
    asked = [str(file) for file in workflow.dag.targetfiles]
    lines = []
    if "results/tables/main.md" in made:
        lines += ["", *table_of("results/tables/main.md"), ""]
        if "results/report.html" in made:
            lines.append(f"Report:  {Path('results/report.html').resolve()}")
        lines += [f"Tables:  {Path('results/tables').resolve()}", f"Figures: {Path('results/figures').resolve()}"]
    elif asked:
        lines += [str(Path(file).resolve()) for file in sorted(asked)[:NAMED]]
        lines += [f"and {len(asked) - NAMED} more"] if len(asked) > NAMED else []
    logger.info("\n".join([*lines, f"Done in {duration(time.time() - BEGAN)}."]))


def table_of(path):
    """The rows of a Markdown table as columns of text, without what makes some of it bold."""
    text = re.sub(r"\*\*|</?u>", "", Path(path).read_text())
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    rows = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    left = sum(not re.match(r"[0-9-]", cell) for cell in rows[1]) if len(rows) > 1 else 1
    return [
        "  ".join(cell.ljust(w) if n < left else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]


def say_what_failed(log):
    """Which logs to look into."""
    logs = FAILURES.logs[:NAMED]
    more = f" and {len(FAILURES.logs) - NAMED} more" if len(FAILURES.logs) > NAMED else ""
    where = f"look into {', '.join(logs)}{more}" if logs else f"look into {log}"
    jobs = "A job" if len(FAILURES.logs) == 1 else f"{len(FAILURES.logs)} jobs" if logs else "The workflow"
    logger.error(
        f"{jobs} failed after {duration(time.time() - BEGAN)}: {where}.\n"
        "What did not depend on that is done and stays; the same command goes on from there."
    )
