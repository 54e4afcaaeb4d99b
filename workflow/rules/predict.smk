def predict_code(wildcards):
    """Digest of the code that predicts with an experiment's network."""
    return code(
        "predict_images.py", f"models.{EXPERIMENTS[wildcards.experiment].model.network}"
    )


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
        mem_mb=8000,
        runtime=240,
        gpu=lambda wildcards: int(
            EXPERIMENTS[wildcards.experiment].predict.device == "gpu"
        ),
    params:
        code=predict_code,
        settings=section("predict"),
        test=lambda wildcards: images_in(wildcards.experiment, wildcards.split, "test"),
    script:
        "../scripts/predict_images.py"


def sheet_rows(archive):
    """Rows of an archive's sheet, with the paths of volumes that are images of a dataset."""
    return {
        row["volume"]: {
            **row,
            "path": planning.located(row["path"], Path(RUN.results)),
            "truth": planning.located(row.get("truth", ""), Path(RUN.results)),
        }
        for row in SHEETS[archive]
    }


def sheet_experiments(wildcards):
    """Settings of the experiments that a sheet's rows name."""
    names = sorted({row["experiment"] for row in SHEETS[wildcards.archive]})
    return {name: EXPERIMENTS[name].model_dump(mode="json") for name in names}


def archive_key(archive):
    """What a plan is made from: sheet, settings and the planner's code."""
    rows = sheet_rows(archive)
    names = sorted({row["experiment"] for row in rows.values()})
    settings = [
        EXPERIMENTS[name].model_dump(
            mode="json", include={"model", "patches", "predict"}
        )
        for name in names
    ]
    return digest(rows, settings, code("plan_archive.py"))


def planned(wildcards):
    """Plan of a volume: as it is when it is current, else once it has been made."""
    path = f"{RUN.results}/archives/{wildcards.archive}/plan.json"
    plan = current(path, archive_key(wildcards.archive))
    if plan is None:
        if workflow.dag_settings.batch is not None:
            raise WorkflowError("--batch needs a plan: run `snakemake plan` first")
        checkpoints.plan_archive.get(
            archive=wildcards.archive
        )  # raises until it is written
        plan = read_json(Path(path))
    return plan["volumes"][wildcards.volume]


def experiment_of(wildcards):
    """Experiment that a volume's row names."""
    return sheet_rows(wildcards.archive)[wildcards.volume]["experiment"]


def final_network(output):
    """Input function: a file of the final network, first seed, of a volume's experiment."""

    def path(wildcards):
        name = experiment_of(wildcards)
        seed = EXPERIMENTS[name].train.seeds[0]
        return expand(output, experiment=name, split="final", seed=seed)

    return path


def volume_file(wildcards):
    """File or folder that a volume is read from; none where it is missing, which the plan tells."""
    row = next(
        row for row in SHEETS[wildcards.archive] if row["volume"] == wildcards.volume
    )
    datasets = planning.datasets_in([{"path": row["path"]}])
    if datasets:
        return expand(rules.prepare_dataset.output.images, dataset=datasets)
    return [row["path"]] if Path(row["path"]).exists() else []


def block_code(wildcards):
    """Digest of the code that predicts a block."""
    network = EXPERIMENTS[experiment_of(wildcards)].model.network
    return code("predict_block.py", f"models.{network}")


checkpoint plan_archive:
    """Plan the blocks of every volume of an archive."""
    input:
        datasets=lambda wildcards: expand(
            rules.prepare_dataset.output,
            dataset=planning.datasets_in(SHEETS[wildcards.archive]),
        ),
    output:
        plan="<results>/archives/{archive}/plan.json",
    log:
        "<logs>/plan/{archive}.log",
    benchmark:
        "<costs>/plan/{archive}.tsv"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        code=code("plan_archive.py"),
        key=lambda wildcards: archive_key(wildcards.archive),
        volumes=lambda wildcards: sheet_rows(wildcards.archive),
        experiments=sheet_experiments,
    script:
        "../scripts/plan_archive.py"


def block(wildcards):
    """Plan of a block: its job and what that needs."""
    return planned(wildcards)["blocks"][wildcards.block]


rule predict_block:
    """Predict one block of a volume; data that cannot be read is written down as its result."""
    input:
        facts=final_network(rules.train_model.output.facts),
        weights=final_network(rules.train_model.output.weights),
        volume=volume_file,
    output:
        receipt="<results>/archives/{archive}/{volume}/prediction_blocks/{block}.json",
    log:
        "<logs>/predict/{archive}/{volume}/{block}.log",
    benchmark:
        "<costs>/predict/{archive}/{volume}_{block}.tsv"
    threads: lambda wildcards: block(wildcards)["job"]["settings"]["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: block(wildcards)["mem_mb"] * attempt,
        runtime=240,
    params:
        code=block_code,
        settings=lambda wildcards: block(wildcards)["job"],
        volume=lambda wildcards: planned(wildcards)["path"],
        prediction=f"{RUN.results}/archives/{{archive}}/{{volume}}/prediction.ome.zarr",
    script:
        "../scripts/predict_block.py"
