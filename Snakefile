"""From images to tables: ERM training, embeddings, hard sets, HSFM and its rivals, scores, tables, figures."""

import os
import sys

import snakemake_logger_plugin_hsfm as terminal
from snakemake.utils import min_version

min_version("9.0")

# Of this file, also where another workflow uses it as a module or jobs run under --directory.
sys.path.insert(0, os.path.join(str(workflow.current_basedir), "workflow"))

from hsfm.report.names import method_label
from hsfm_workflow import SPLITS, code, extras
from hsfm_workflow.code import code_of
from hsfm_workflow.config import check_writable, config_file, read_config
from hsfm_workflow.files import downloads, folder_stamp
from hsfm_workflow.plan import IMAGES, OF_RUN, Plan, in_shard, one_of
from hsfm_workflow.report import OF_FEATURES, OF_SCORES, PAGE, SAVED_CONFIG, STAGES, STUDY_FIGURES, STYLE
from hsfm_workflow.report import Results, figure_files, reported, table_files
from hsfm_workflow.resources import IN_MEMORY, check_device, gpus, memory

# OpenMP threads that spin while they wait for one another lose most of their speed on a busy machine. Set here, since
# the library reads it when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Arrow's own allocator sets memory aside in large pieces; with the system's a stage needs less.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

# glibc hands tensors of a few megabytes back to the kernel at once, which then clears every page anew: a tenth of the
# time of a training on the CPU. Bytes that it keeps instead.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**28))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**29))
os.environ.setdefault("MALLOC_TOP_PAD_", str(2**26))


configfile: config_file()


plan = Plan(read_config(config, [*workflow.configfiles, *workflow.overwrite_configfiles]))
results = Results(plan)
# For scripts, by dataset. Not in params, which would train anew where a method is added.
config = {**config, "asked_of_labels": plan.asked_of_labels}
gpu = gpus(workflow, plan.config["device"])
check_writable(".")
extras.warn(plan, workflow)


report: "workflow/report/workflow.rst"


if plan.config["container"] is not None:

    container: plan.config["container"]


rule all:
    input:
        results.everything,


include: "workflow/rules/stage.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/backbone.smk"
include: "workflow/rules/heads.smk"
include: "workflow/rules/afr.smk"
include: "workflow/rules/dac.smk"
include: "workflow/rules/ddb.smk"
include: "workflow/rules/edits.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/studies.smk"
include: "workflow/rules/card.smk"
include: "workflow/rules/export.smk"


code.remember()


onstart:
    check_writable("results", "logs")
    check_device(workflow, plan.config["device"])
    terminal.start(workflow)


onsuccess:
    terminal.log_results(workflow)


onerror:
    terminal.log_failures(log)
