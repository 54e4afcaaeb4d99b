rule choose_seeds:
    """Choose from what seeds watershed divides the images that validate a network best."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        facts=rules.train_model.output.facts,
        weights=rules.train_model.output.weights,
    output:
        seeds="<results>/experiments/{experiment}/{split}/seed{seed}/seeds.json",
    log:
        "<logs>/segment/{experiment}/{split}/seed{seed}.seeds.log",
    benchmark:
        "<costs>/segment/{experiment}/{split}_seed{seed}_seeds.tsv"
    threads: lambda wildcards: EXPERIMENTS[wildcards.experiment].predict.threads
    resources:
        mem_mb=raised(8000),
        runtime=raised(240),
        gpu=lambda wildcards: int(
            EXPERIMENTS[wildcards.experiment].predict.device == "gpu"
        ),
    params:
        code=network_code("choose_seeds.py"),
        predict=image_prediction,
        segment=section("segment"),
        validation=validation_images,
        planes=known_planes,
    script:
        "../scripts/choose_seeds.py"


rule segment_images:
    """Divide the predicted test images of a split into instances."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        prediction=rules.predict_images.output.prediction,
        facts=rules.train_model.output.facts,
        seeds=chosen_seeds,
    output:
        segmentation=directory(
            "<results>/experiments/{experiment}/{split}/seed{seed}/segmentation.ome.zarr"
        ),
        objects="<results>/experiments/{experiment}/{split}/seed{seed}/objects.tsv",
    log:
        "<logs>/segment/{experiment}/{split}/seed{seed}.log",
    benchmark:
        "<costs>/segment/{experiment}/{split}_seed{seed}.tsv"
    resources:
        mem_mb=raised(4000),
        runtime=raised(120),
    params:
        code=code("segment_images.py"),
        settings=section("segment"),
        test=predicted_images,
    script:
        "../scripts/segment_images.py"


rule track_images:
    """Link the instances of the frames of each sequence of a split."""
    input:
        index=of_dataset("index.json"),
        segmentation=rules.segment_images.output.segmentation,
    output:
        tracks=directory("<results>/experiments/{experiment}/{split}/seed{seed}/tracks"),
    log:
        "<logs>/track/{experiment}/{split}/seed{seed}.log",
    benchmark:
        "<costs>/track/{experiment}/{split}_seed{seed}.tsv"
    resources:
        mem_mb=raised(4000),
        runtime=raised(60),
    params:
        code=code("track_images.py"),
        settings=section("track"),
        sequences=tracked_sequences,
    script:
        "../scripts/track_images.py"


rule segment_part:
    """Divide some blocks of a large predicted volume into instances."""
    input:
        receipt=first_receipt,
        predicted=rules.finish_prediction.output.facts,
        facts=network_file("facts"),
        seeds=seeds_of_volume,
    output:
        blocks=temp(
            directory(
                "<results>/archives/{archive}/{volume}/label_blocks/{part}_of_{parts}"
            )
        ),
    log:
        "<logs>/segment/archives/{archive}/{volume}/{part}_of_{parts}.log",
    benchmark:
        "<costs>/segment/archives/{archive}/{volume}_{part}_of_{parts}.tsv"
    wildcard_constraints:
        part=r"\d+",
        parts=r"\d+",
    resources:
        mem_mb=segmentation_mb,
        disk_mb=labels_mb,
        runtime=minutes(10),
    params:
        code=code("segment_part.py"),
        settings=volume_segmentation,
        prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
    script:
        "../scripts/segment_part.py"


rule segment_volume:
    """Join the instances of a predicted volume's blocks, and say how it went."""
    input:
        parts=label_parts(rules.segment_part.output.blocks),
        receipt=first_receipt,
        predicted=rules.finish_prediction.output.facts,
        facts=network_file("facts"),
        seeds=seeds_of_volume,
    output:
        segmentation=directory(
            "<results>/archives/{archive}/{volume}/segmentation.ome.zarr"
        ),
        objects="<results>/archives/{archive}/{volume}/objects.tsv",
        merges="<results>/archives/{archive}/{volume}/merges.tsv",
        seams="<results>/archives/{archive}/{volume}/seams.tsv",
        summary="<results>/archives/{archive}/{volume}/summary.json",
    log:
        "<logs>/segment/archives/{archive}/{volume}.log",
    benchmark:
        "<costs>/segment/archives/{archive}/{volume}.tsv"
    resources:
        mem_mb=segmentation_mb,
        disk_mb=labels_mb,
        runtime=minutes(5),
    params:
        code=code("segment_volume.py"),
        settings=volume_segmentation,
        prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
    script:
        "../scripts/segment_volume.py"


rule measure_values:
    """Tell in numbers which values a regression has predicted of a volume, or of those that share its job."""
    input:
        receipt=first_receipt,
        finished=finished,
        facts=network_file("facts"),
    output:
        measured="<results>/archives/{archive}/{volume}/measured.json",
    log:
        "<logs>/segment/archives/{archive}/{volume}/measured.log",
    benchmark:
        "<costs>/segment/archives/{archive}/{volume}_measured.tsv"
    resources:
        mem_mb=raised(4000),
        runtime=minutes(5),
    params:
        code=code("measure_values.py"),
        volumes=members,
        paths=for_each_volume(
            facts=rules.finish_prediction.output.facts,
            prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
            summary=rules.segment_volume.output.summary,
        ),
        restored=restored(
            in_results("archives/{archive}/{volume}/measured.json"),
            outputs_of([rules.segment_volume.output.summary]),
        ),
    script:
        "../scripts/measure_values.py"


rule segment_pack:
    """Divide small predicted volumes that share a job into instances, and say how it went."""
    input:
        receipt=first_receipt,
        finished=rules.finish_pack.output.finished,
        facts=network_file("facts"),
        seeds=seeds_of_volume,
    output:
        segmented="<results>/archives/{archive}/{volume}/segmented.json",
    log:
        "<logs>/segment/archives/{archive}/{volume}/segmented.log",
    benchmark:
        "<costs>/segment/archives/{archive}/{volume}_pack.tsv"
    resources:
        mem_mb=segmentation_mb,
        disk_mb=labels_mb,
        runtime=minutes(5),
    params:
        code=code("segment_pack.py"),
        settings=volume_segmentation,
        volumes=members,
        paths=for_each_volume(
            facts=rules.finish_prediction.output.facts,
            prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
            **dict(rules.segment_volume.output.items()),
        ),
        restored=restored(
            in_results("archives/{archive}/{volume}/segmented.json"),
            outputs_of(rules.segment_volume.output),
        ),
    script:
        "../scripts/segment_pack.py"
