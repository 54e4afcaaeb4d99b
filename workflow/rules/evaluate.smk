rule evaluate_images:
    """Score the test images of a split."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        prediction=rules.predict_images.output.prediction,
        segmentation=rules.segment_images.output.segmentation,
        tracks=tracks_to_score,
        facts=rules.train_model.output.facts,
    output:
        metrics="<results>/experiments/{experiment}/{split}/seed{seed}/metrics.tsv",
        curves="<results>/experiments/{experiment}/{split}/seed{seed}/curves.tsv",
    log:
        "<logs>/evaluate/{experiment}/{split}/seed{seed}.log",
    benchmark:
        "<costs>/evaluate/{experiment}/{split}_seed{seed}.tsv"
    resources:
        mem_mb=raised(4000),
        runtime=raised(60),
    params:
        code=code("evaluate_images.py"),
        settings=section("evaluate"),
        test=lambda wildcards: images_in(wildcards.experiment, wildcards.split, "test"),
        sequences=tracked_sequences,
    script:
        "../scripts/evaluate_images.py"


rule summarise_experiment:
    """Gather the scores of all folds and seeds, with their mean and spread."""
    input:
        metrics=every_fold(rules.evaluate_images.output.metrics),
        curves=every_fold(rules.evaluate_images.output.curves),
        facts=every_fold(rules.train_model.output.facts),
    output:
        metrics=report(
            "<results>/experiments/{experiment}/metrics.tsv",
            caption="../report/metrics.rst",
            category="{experiment}",
            subcategory="Scores",
            labels={"table": "every image"},
        ),
        summary="<results>/experiments/{experiment}/summary.json",
        curves="<results>/experiments/{experiment}/curves.tsv",
    log:
        "<logs>/evaluate/{experiment}/summary.log",
    benchmark:
        "<costs>/evaluate/{experiment}/summary.tsv"
    localrule: True
    resources:
        mem_mb=raised(500),
        runtime=raised(10),
    params:
        code=code("summarise_experiment.py"),
    script:
        "../scripts/summarise_experiment.py"


rule evaluate_volume:
    """Score a volume of an archive whose row names its truth."""
    input:
        receipts=receipts,
        predicted=rules.finish_prediction.output.facts,
        segmentation=rules.segment_volume.output.segmentation,
        summary=rules.segment_volume.output.summary,
        facts=final_network(rules.train_model.output.facts),
        truth=sheet_file("truth"),
    output:
        metrics="<results>/archives/{archive}/{volume}/metrics.tsv",
    log:
        "<logs>/evaluate/archives/{archive}/{volume}.log",
    benchmark:
        "<costs>/evaluate/archives/{archive}/{volume}.tsv"
    group:
        group_of_volume
    resources:
        mem_mb=evaluation_mb,
        runtime=raised(60),
    params:
        code=code("evaluate_volume.py"),
        settings=lambda wildcards: EXPERIMENTS[
            experiment_of(wildcards)
        ].evaluate.model_dump(mode="json"),
        truth=lambda wildcards: sheet_rows(wildcards.archive)[wildcards.volume]["truth"],
        prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
    script:
        "../scripts/evaluate_volume.py"


rule summarise_archive:
    """Tell in one table how each volume of an archive went."""
    input:
        summaries=lambda wildcards: expand(
            rules.segment_volume.output.summary,
            volume=volumes_of(wildcards.archive),
            allow_missing=True,
        ),
        metrics=lambda wildcards: expand(
            rules.evaluate_volume.output.metrics,
            volume=volumes_of(wildcards.archive, with_truth=True),
            allow_missing=True,
        ),
    output:
        summary=report(
            "<results>/archives/{archive}/summary.tsv",
            caption="../report/archive.rst",
            category="Archives",
            labels={"archive": "{archive}"},
        ),
    log:
        "<logs>/evaluate/archives/{archive}/summary.log",
    benchmark:
        "<costs>/evaluate/archives/{archive}/summary.tsv"
    localrule: True
    resources:
        mem_mb=raised(500),
        runtime=raised(10),
    params:
        code=code("summarise_archive.py"),
        volumes=lambda wildcards: volumes_of(wildcards.archive),
        with_truth=lambda wildcards: volumes_of(wildcards.archive, with_truth=True),
    script:
        "../scripts/summarise_archive.py"
