def training_images(wildcards):
    """Images that a network learns from."""
    return images_in(wildcards.experiment, wildcards.split, "train")


def validation_images(wildcards):
    """Images that choose its best step and its threshold; none for the final network."""
    return images_in(wildcards.experiment, wildcards.split, "validate")


def fold_models(wildcards):
    """Networks of the folds, from which the final one takes steps and threshold."""
    if wildcards.split != "final":
        return []
    return expand(
        rules.train_model.output.facts,
        split=EXPERIMENTS[wildcards.experiment].split.names,
        allow_missing=True,
    )


def training_settings(wildcards):
    """Sections that a network depends on."""
    experiment = EXPERIMENTS[wildcards.experiment]
    settings = experiment.model_dump(mode="json")
    sections = ("dataset", "intensity", "patches", "model", "train", "predict")
    chosen = {name: settings[name] for name in sections}
    # Other seeds of the same experiment are other jobs.
    chosen["train"]["seeds"] = [int(wildcards.seed)]
    return chosen


rule train_model:
    """Train one network on a split."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        patches=lambda wildcards: expand(
            rules.cut_patches.output.patches,
            experiment=maker(wildcards, "dataset", "weights", "patches", "model"),
            image=training_images(wildcards),
        ),
        histograms=lambda wildcards: expand(
            rules.measure_intensity.output.histogram,
            dataset=dataset_name_of(wildcards.experiment),
            image=training_images(wildcards) + validation_images(wildcards),
        ),
        folds=fold_models,
    output:
        weights="<results>/experiments/{experiment}/{split}/seed{seed}/model.safetensors",
        facts="<results>/experiments/{experiment}/{split}/seed{seed}/model.json",
        history=report(
            "<results>/experiments/{experiment}/{split}/seed{seed}/history.tsv",
            caption="../report/history.rst",
            category="{experiment}",
            subcategory="Training",
            labels={"split": "{split}", "seed": "{seed}"},
        ),
        run="<results>/experiments/{experiment}/{split}/seed{seed}/train.run.json",
    log:
        "<logs>/train/{experiment}/{split}/seed{seed}.log",
    benchmark:
        "<costs>/train/{experiment}/{split}_seed{seed}.tsv"
    retries: 1
    threads: lambda wildcards: EXPERIMENTS[wildcards.experiment].train.threads
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=lambda wildcards: int(
            EXPERIMENTS[wildcards.experiment].train.device == "gpu"
        ),
    params:
        code=lambda wildcards: code(
            "train_model.py",
            f"models.{EXPERIMENTS[wildcards.experiment].model.network}",
        ),
        settings=training_settings,
        validation=validation_images,
        checkpoints=f"{RUN.results}/experiments/{{experiment}}/.checkpoint",
    script:
        "../scripts/train_model.py"
