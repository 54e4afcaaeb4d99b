rule evaluate_images:
    """Score the test images of a split."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        prediction=rules.predict_images.output.prediction,
        segmentation=segmentation_to_score,
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
        tested_planes=tested_planes,
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
        summary=report(
            "<results>/experiments/{experiment}/summary.json",
            caption="../report/summary.rst",
            category="{experiment}",
            subcategory="Scores",
            labels={"table": "means and intervals"},
        ),
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
        receipt=first_receipt,
        predicted=rules.finish_prediction.output.facts,
        segmentation=segmentation_of_volume,
        facts=network_file("facts"),
        truth=of_datasets("truth"),
    output:
        metrics="<results>/archives/{archive}/{volume}/metrics.tsv",
    log:
        "<logs>/evaluate/archives/{archive}/{volume}.log",
    benchmark:
        "<costs>/evaluate/archives/{archive}/{volume}.tsv"
    resources:
        mem_mb=evaluation_mb,
        runtime=minutes(10, voxels_per_second=2e6),
    params:
        code=code("evaluate_volume.py"),
        settings=lambda wildcards: section_of(experiment_of(wildcards), "evaluate"),
        truth=lambda wildcards: sheet_rows(wildcards.archive)[wildcards.volume]["truth"],
        truth_state=lambda wildcards: state_of_truth(
            wildcards.archive, wildcards.volume
        ),
        prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
    script:
        "../scripts/evaluate_volume.py"


rule evaluate_pack:
    """Score small volumes that share a job and whose rows name their truth."""
    input:
        receipt=first_receipt,
        ready=ready_to_score,
        facts=network_file("facts"),
        truths=datasets_of_truths,
    output:
        scored="<results>/archives/{archive}/{volume}/scored.json",
    log:
        "<logs>/evaluate/archives/{archive}/{volume}/scored.log",
    benchmark:
        "<costs>/evaluate/archives/{archive}/{volume}_pack.tsv"
    resources:
        mem_mb=evaluation_mb,
        runtime=minutes(10, voxels_per_second=2e6),
    params:
        code=code("evaluate_pack.py"),
        settings=lambda wildcards: section_of(experiment_of(wildcards), "evaluate"),
        truths=truths_of_pack,
        paths=for_each_volume(
            prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
            segmentation=rules.segment_volume.output.segmentation,
            facts=rules.finish_prediction.output.facts,
            metrics=rules.evaluate_volume.output.metrics,
        ),
        restored=restored(
            in_results("archives/{archive}/{volume}/scored.json"),
            outputs_of(rules.evaluate_volume.output, with_truth),
        ),
    script:
        "../scripts/evaluate_pack.py"


rule summarise_archive:
    """Tell in one table how each volume of an archive went."""
    input:
        segmented=of_volumes(segmented_by),
        scored=of_volumes(scored_by, only_scored=True),
    output:
        summary=report(
            "<results>/archives/{archive}/summary.tsv",
            caption="../report/archive.rst",
            category="Archives",
            labels={"archive": "{archive}"},
        ),
    log:
        "<logs>/evaluate/archives/{archive}.log",
    benchmark:
        "<costs>/evaluate/archives/{archive}.tsv"
    localrule: True
    resources:
        mem_mb=raised(500),
        runtime=raised(10),
    params:
        code=code("summarise_archive.py"),
        folder=in_results("archives/{archive}"),
        volumes=lambda wildcards: volumes_of(wildcards.archive),
        with_truth=lambda wildcards: volumes_of(wildcards.archive, only_scored=True),
    script:
        "../scripts/summarise_archive.py"
