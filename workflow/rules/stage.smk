# What all rules have in common: `use rule stage as NAME with:` adds the rest, and `**code_of(NAME)` in params names the
# script and the hash of its code. By itself it makes nothing. The log stands in every rule: Snakemake's path variables
# of a rule (9.27) are lost on a default storage, as on Kubernetes.
rule stage:
    log:
        "logs/stage.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=240,
    params:
        script="stage",
    script:
        "../scripts/{params.script}.py"


# Of those whose time on the CPU grows with the dataset, and that begin anew when they are cut off.
use rule stage as long_stage with:
    resources:
        mem_mb=memory(4000),
        runtime=1440,


# Of those that send images through a network: before others, since much waits for them.
use rule stage as stage_on_device with:
    priority: 50
    threads: plan.config["training_threads"]
    resources:
        gpu=gpu,
        mem_mb=memory(16000),
        runtime=1440,
    params:
        device=plan.config["device"],
        compute=plan.compute,


wildcard_constraints:
    dataset="[a-z][a-z0-9_]*",
    run="[0-9]+",
    method="[a-z][a-z0-9_]*",
    seed="[0-9]+",
    network="[a-z][a-z0-9_]*(/seed[0-9]+)?",
    part="[0-9]+",
    label="[0-9]+",
    split=one_of(SPLITS),


# Of the stages that are cut into shards; a stage of one shard leaves its files where they belong.
scattergather:
    **plan.shards,
