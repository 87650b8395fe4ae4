"""Public releases of real photographs as a `metadata.csv` each, for the metadata source of the workflow.

    python -m benchmarks.real.lesions FOLDER

and likewise style, dominoes, spawrious and urbancars. Images stay where they are, unless a set is composed; licenses
are those of the releases. docs/results.md says where to get them.
"""
