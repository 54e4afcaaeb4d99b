rule compute_weights:
    """Compute the training target and the border weights of one image."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
    output:
        weights=directory("<results>/experiments/{experiment}/weights.zarr/{image}"),
    log:
        "<logs>/weights/{experiment}/{image}.log",
    benchmark:
        "<costs>/weights/{experiment}/{image}.tsv"
    group:
        "image"
    # Many images run side by side; for few large volumes: --set-threads compute_weights=8
    threads: 1
    resources:
        mem_mb=raised(4000),
        runtime=raised(30),
    params:
        code=code("compute_weights.py"),
        settings=section("weights"),
        tested_planes=tested_planes,
        dimensions=lambda wildcards: EXPERIMENTS[wildcards.experiment].model.dimensions,
    script:
        "../scripts/compute_weights.py"
