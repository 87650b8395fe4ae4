"""Write the configuration as it is after overlays, the command line and what datasets inherit."""

import yaml

from hsfm.core import job
from hsfm.core.files import write_atomically

HEADER = """\
# The configuration of these results, after overlays, --config and `base`. It gives the same again:
#   snakemake --cores 2 --configfile {path}
"""

job.start(snakemake.log[0])
with write_atomically(snakemake.output.config) as temporary:
    text = yaml.safe_dump(snakemake.params.config, sort_keys=False, allow_unicode=True, width=120)
    temporary.write_text(HEADER.format(path=snakemake.output.config) + text)
job.finish("Configuration", snakemake.output.config)
