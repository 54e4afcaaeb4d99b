rule segment_images:
    """Divide the predicted test images of a split into instances."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        prediction=rules.predict_images.output.prediction,
        facts=rules.train_model.output.facts,
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
        receipts=receipts,
        predicted=rules.finish_prediction.output.facts,
        facts=final_network(rules.train_model.output.facts),
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
        runtime=raised(240),
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
        # Asked of the plan, so that it is looked at again once an archive has been planned anew.
        receipts=receipts,
        predicted=rules.finish_prediction.output.facts,
        facts=final_network(rules.train_model.output.facts),
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
    group:
        group_of_volume
    resources:
        mem_mb=segmentation_mb,
        runtime=raised(120),
    params:
        code=code("segment_volume.py"),
        settings=volume_segmentation,
        prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
    script:
        "../scripts/segment_volume.py"
