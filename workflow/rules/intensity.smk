rule measure_intensity:
    """Count the grey values of one image."""
    input:
        images="<results>/datasets/{dataset}/images.ome.zarr",
        index="<results>/datasets/{dataset}/index.json",
    output:
        histogram="<results>/datasets/{dataset}/intensity/{image}.json",
    log:
        "<logs>/intensity/{dataset}/{image}.log",
    benchmark:
        "<costs>/intensity/{dataset}/{image}.tsv"
    group:
        "image"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("measure_intensity.py"),
    script:
        "../scripts/measure_intensity.py"
