checkpoint plan_training:
    """Plan what the networks of an experiment need, and what its settings leave to the plan."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
    output:
        plan="<results>/experiments/{experiment}/training_plan.json",
    log:
        "<logs>/train/{experiment}/plan.log",
    benchmark:
        "<costs>/train/{experiment}/plan.tsv"
    resources:
        mem_mb=raised(4000),
        runtime=raised(30),
    params:
        code=lambda wildcards: training_plan_code(wildcards.experiment),
        key=lambda wildcards: training_plan_key(wildcards.experiment),
        settings=lambda wildcards: settings_to_plan(wildcards.experiment),
    script:
        "../scripts/plan_training.py"


rule train_model:
    """Train one network on a split."""
    input:
        plan=rules.plan_training.output.plan,
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        split=rules.split_images.output.split,
        patches=lambda wildcards: expand(
            rules.cut_patches.output.patches,
            experiment=maker(wildcards.experiment, PATCHES_FOLLOW),
            image=training_images(wildcards),
        ),
        histograms=lambda wildcards: expand(
            rules.measure_intensity.output.histogram,
            dataset=dataset_name_of(wildcards.experiment),
            image=seen_images(wildcards),
        ),
        folds=fold_models,
        stage=earlier_stage,
        fetched=fetched_weights,
    output:
        weights="<results>/experiments/{experiment}/{split}/seed{seed}/model.safetensors",
        last="<results>/experiments/{experiment}/{split}/seed{seed}/last.safetensors",
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
    # One that was terminated goes on from its checkpoint.
    retries: RETRIES
    threads: training_threads
    resources:
        mem_mb=lambda wildcards, input, attempt: (
            read_json(Path(input.plan))["mem_mb"] * attempt
        ),
        runtime=raised(720),
        gpu=lambda wildcards: int(
            EXPERIMENTS[wildcards.experiment].train.device == "gpu"
        )
        * EXPERIMENTS[wildcards.experiment].train.devices,
    params:
        code=lambda wildcards: code(
            "train_model.py",
            f"models.{EXPERIMENTS[wildcards.experiment].model.network}.network",
        ),
        settings=training_settings,
        # Read once it is there, never made by this rule: it may be of an experiment that is not run.
        start=lambda wildcards: settings_files.start_of(
            FAMILIES[wildcards.experiment], wildcards.experiment
        ),
        checkpoints=in_results("experiments/{experiment}/.checkpoint"),
    script:
        "../scripts/train_model.py"
