# What all rules have in common: `use rule stage as NAME with:` adds the rest, and `**code_of(NAME)` in params names the
# script and the hash of its code. By itself it makes nothing.
rule stage:
    log:
        "logs/stage.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        script="stage",
    script:
        "../scripts/{params.script}.py"


wildcard_constraints:
    dataset="[a-z][a-z0-9_]*",
    run="[0-9]+",
    method="[a-z][a-z0-9_]*",
    seed="[0-9]+",
    network="[a-z][a-z0-9_]*(/seed[0-9]+)?",
    part="[0-9]+",


# Of the stages that are cut into shards; a stage of one shard leaves its files where they belong.
scattergather:
    **plan.shards,
