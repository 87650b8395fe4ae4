# ERM on a share of the training images, by ERM's recipe or its own, in a folder of its own; AFR's head is fitted on the
# rest.
use rule train_erm as train_on_share with:
    output:
        checkpoint="results/{dataset}/run{run}/afr/backbone.safetensors",
        history="results/{dataset}/run{run}/afr/training.parquet",
    log:
        "logs/{dataset}/run{run}/train_on_share.log",
    params:
        training=plan.training_on_share,
    message:
        "Training {wildcards.dataset}, run {wildcards.run}, by ERM on a share of the images"
