rule predict_images:
    """Predict the test images of a split tile by tile."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        facts=rules.train_model.output.facts,
        weights=rules.train_model.output.weights,
    output:
        prediction=directory(
            "<results>/experiments/{experiment}/{split}/seed{seed}/prediction.ome.zarr"
        ),
        run="<results>/experiments/{experiment}/{split}/seed{seed}/predict.run.json",
    log:
        "<logs>/predict/{experiment}/{split}/seed{seed}.log",
    benchmark:
        "<costs>/predict/{experiment}/{split}_seed{seed}.tsv"
    threads: lambda wildcards: EXPERIMENTS[wildcards.experiment].predict.threads
    resources:
        mem_mb=raised(8000),
        runtime=raised(240),
        gpu=lambda wildcards: int(
            EXPERIMENTS[wildcards.experiment].predict.device == "gpu"
        ),
    params:
        code=network_code("predict_images.py"),
        settings=image_prediction,
        test=predicted_images,
    script:
        "../scripts/predict_images.py"


rule verify_tiling:
    """Measure how far tiles are from the whole on a test image; fail if further than rounding."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        facts=rules.train_model.output.facts,
        weights=rules.train_model.output.weights,
        plan=lambda wildcards: training_plans([wildcards.experiment]),
    output:
        facts=report(
            "<results>/experiments/{experiment}/{split}/seed{seed}/tiling.json",
            caption="../report/tiling.rst",
            category="{experiment}",
            subcategory="Tiles against the whole",
            labels={"split": "{split}", "seed": "{seed}"},
        ),
        run="<results>/experiments/{experiment}/{split}/seed{seed}/tiling.run.json",
    log:
        "<logs>/predict/{experiment}/{split}/seed{seed}.tiling.log",
    benchmark:
        "<costs>/predict/{experiment}/{split}_seed{seed}_tiling.tsv"
    threads: lambda wildcards: EXPERIMENTS[wildcards.experiment].predict.threads
    resources:
        mem_mb=raised(8000),
        runtime=raised(60),
        gpu=lambda wildcards: int(
            EXPERIMENTS[wildcards.experiment].predict.device == "gpu"
        ),
    params:
        code=network_code("verify_tiling.py"),
        settings=image_prediction,
        tile=prediction_tile,
        image=lambda wildcards: images_in(
            wildcards.experiment, wildcards.split, "test"
        )[0],
    script:
        "../scripts/verify_tiling.py"


rule adopt_model:
    """Bring a model that a sheet names to where predictions read it; one that is of no use is told."""
    output:
        facts="<results>/models/{model}/model.json",
        weights="<results>/models/{model}/model.safetensors",
    log:
        "<logs>/predict/models/{model}.log",
    benchmark:
        "<costs>/predict/models/{model}.tsv"
    resources:
        mem_mb=raised(4000),
        runtime=raised(30),
    params:
        code=code("adopt_model.py"),
        model=lambda wildcards: MODELS[wildcards.model],
        # No input: Snakemake would take {braces} in its path for wildcards.
        state=lambda wildcards: state_of_model(MODELS[wildcards.model]),
    script:
        "../scripts/adopt_model.py"


checkpoint plan_archive:
    """Plan the blocks of every volume of an archive."""
    input:
        datasets=lambda wildcards: expand(
            rules.prepare_dataset.output,
            dataset=sheets.datasets_in(SHEETS[wildcards.archive]),
        ),
        plans=lambda wildcards: training_plans(
            sheets.trained(SHEETS[wildcards.archive])
        ),
        models=lambda wildcards: adopted(wildcards.archive),
    output:
        plan="<results>/archives/{archive}/plan.json",
    log:
        "<logs>/plan/archives/{archive}.log",
    benchmark:
        "<costs>/plan/archives/{archive}.tsv"
    resources:
        mem_mb=raised(1000),
        runtime=minutes_to_plan,
    params:
        code=code("plan_archive.py"),
        key=lambda wildcards: archive_key(wildcards.archive),
        volumes=lambda wildcards: sheet_rows(wildcards.archive),
        experiments=sheet_experiments,
        models=lambda wildcards: models_in(wildcards.archive),
    script:
        "../scripts/plan_archive.py"


rule predict_block:
    """Predict one block of a volume; data that cannot be read is written down as its result."""
    input:
        facts=network_file("facts"),
        weights=network_file("weights"),
        volume=of_datasets("path"),
        histograms=own_histograms,
    output:
        receipt="<results>/archives/{archive}/{volume}/prediction_blocks/{block}.json",
    log:
        "<logs>/predict/archives/{archive}/{volume}/{block}.log",
    benchmark:
        "<costs>/predict/archives/{archive}/{volume}_{block}.tsv"
    retries: RETRIES
    threads: lambda wildcards: block(wildcards)["job"]["settings"]["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: block(wildcards)["mem_mb"] * attempt,
        attempt=lambda wildcards, attempt: attempt,
        need_mb=lambda wildcards: block(wildcards)["mem_mb"],
        disk_mb=lambda wildcards: block(wildcards)["disk_mb"],
        runtime=lambda wildcards, attempt: block(wildcards)["runtime"] * attempt,
        gpu=lambda wildcards: int(
            block(wildcards)["job"]["settings"]["device"] == "gpu"
        ),
    params:
        code=block_code,
        settings=lambda wildcards: block(wildcards)["job"],
        volume=lambda wildcards: planned(wildcards)["path"],
        prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
        repaired=repaired,
    script:
        "../scripts/predict_block.py"


rule predict_pack:
    """Predict small volumes that share a job, named by the first of them."""
    input:
        facts=network_file("facts"),
        weights=network_file("weights"),
        volumes=datasets_of_pack,
        histograms=own_histograms,
    output:
        pack="<results>/archives/{archive}/{volume}/pack.json",
    log:
        "<logs>/predict/archives/{archive}/{volume}/pack.log",
    benchmark:
        "<costs>/predict/archives/{archive}/{volume}_pack.tsv"
    retries: RETRIES
    threads: lambda wildcards: EXPERIMENTS[experiment_of(wildcards)].predict.threads
    resources:
        mem_mb=lambda wildcards, attempt: most_in_pack(wildcards, "mem_mb") * attempt,
        attempt=lambda wildcards, attempt: attempt,
        need_mb=lambda wildcards: most_in_pack(wildcards, "mem_mb"),
        disk_mb=lambda wildcards: sum_in_pack(wildcards, "disk_mb"),
        runtime=lambda wildcards, attempt: planned(wildcards)["pack_runtime"] * attempt,
        gpu=lambda wildcards: int(
            EXPERIMENTS[experiment_of(wildcards)].predict.device == "gpu"
        ),
    params:
        code=block_code,
        settings=members_of_pack,
        folder=in_results("archives/{archive}"),
        restored=restored(
            in_results("archives/{archive}/{volume}/pack.json"),
            lambda wildcards: receipts_of_pack(wildcards).values(),
        ),
    script:
        "../scripts/predict_pack.py"


rule finish_prediction:
    """Make one OME-Zarr image of the blocks of a volume, with coarser levels."""
    input:
        receipts=receipts,
        facts=network_file("facts"),
    output:
        facts="<results>/archives/{archive}/{volume}/prediction.json",
    log:
        "<logs>/predict/archives/{archive}/{volume}.log",
    benchmark:
        "<costs>/predict/archives/{archive}/{volume}.tsv"
    resources:
        mem_mb=raised(4000),
        disk_mb=levels_mb,
        runtime=minutes(5),
    params:
        code=code("finish_prediction.py"),
        settings=settings_to_finish,
        row=lambda wildcards: row_to_finish(planned(wildcards)),
        receipts=lambda wildcards: receipts_of_blocks(**wildcards),
        prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
    script:
        "../scripts/finish_prediction.py"


rule finish_pack:
    """Make OME-Zarr images of the predictions of small volumes that share a job."""
    input:
        pack=receipts,
        facts=network_file("facts"),
    output:
        finished="<results>/archives/{archive}/{volume}/finished.json",
    log:
        "<logs>/predict/archives/{archive}/{volume}/finished.log",
    benchmark:
        "<costs>/predict/archives/{archive}/{volume}_finished.tsv"
    resources:
        mem_mb=raised(4000),
        disk_mb=levels_mb,
        runtime=minutes(5),
    params:
        code=code("finish_pack.py"),
        settings=settings_to_finish,
        rows=rows_of_pack,
        paths=for_each_volume(
            receipts=in_results("archives/{archive}/{volume}/prediction_blocks"),
            prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
            metadata=in_results(
                "archives/{archive}/{volume}/prediction.ome.zarr/zarr.json"
            ),
            facts=rules.finish_prediction.output.facts,
        ),
        restored=restored(
            in_results("archives/{archive}/{volume}/finished.json"),
            outputs_of([rules.finish_prediction.output.facts]),
        ),
    script:
        "../scripts/finish_pack.py"
