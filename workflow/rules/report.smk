PAGE_TABLES = [
    file for file in [*TABLES, *TABLES_OF_RUN, *TABLES_OF_STUDIES, *TABLES_OF_EDITS] if file.endswith(".html")
]
PAGE_FIGURES = [file for file in FIGURES if file.endswith(".png")]


rule write_report:
    input:
        numbers="results/tables/uncertainty.csv",
        stages="results/tables/stages.csv",
        versions="results/tables/versions.csv",
        config="results/config.yaml",
        tables=PAGE_TABLES,
        figures=PAGE_FIGURES,
        captions=captions(PAGE_TABLES + PAGE_FIGURES),
        page=[os.path.relpath(path) for path in PAGE],
        code=uses("workflow/scripts/write_report.py"),
    output:
        REPORT,
    log:
        "logs/write_report.log",
    benchmark:
        "logs/write_report.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(1000, figures=3),
        runtime=10,
    message:
        "Writing the report"
    script:
        "../scripts/write_report.py"
