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
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("compute_weights.py"),
        settings=section("weights"),
    script:
        "../scripts/compute_weights.py"
