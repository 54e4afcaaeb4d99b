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
        mem_mb=raised(1000),
        runtime=raised(10),
    params:
        code=code("measure_intensity.py"),
        image=in_results("datasets/{dataset}/images.ome.zarr/{image}"),
    script:
        "../scripts/measure_intensity.py"


rule measure_volume:
    """Count the grey values of an archive's volume, for models that normalise by the volume's own."""
    input:
        volume=of_datasets("path"),
    output:
        histogram="<results>/archives/{archive}/{volume}/intensity.json",
    log:
        "<logs>/intensity/archives/{archive}/{volume}.log",
    benchmark:
        "<costs>/intensity/archives/{archive}/{volume}.tsv"
    resources:
        mem_mb=raised(2000),
        runtime=minutes(10),
    params:
        code=code("measure_volume.py"),
        image=lambda wildcards: planned(wildcards)["path"],
        choice=lambda wildcards: volumes.choice_of(planned(wildcards)),
        known_by=lambda wildcards: [
            planned(wildcards)["known_by"],
            planned(wildcards)["shape"],
        ],
    script:
        "../scripts/measure_volume.py"
