rule split_images:
    """Decide who trains, validates and tests in each fold."""
    input:
        index=of_dataset("index.json"),
    output:
        split="<results>/experiments/{experiment}/split.json",
    log:
        "<logs>/split/{experiment}.log",
    benchmark:
        "<costs>/split/{experiment}.tsv"
    localrule: True
    resources:
        mem_mb=raised(500),
        runtime=raised(5),
    params:
        code=code("split_images.py"),
        settings=section("split"),
    script:
        "../scripts/split_images.py"
