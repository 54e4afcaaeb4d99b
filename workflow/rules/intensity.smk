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
        row=lambda wildcards: row_to_measure(wildcards, wildcards.volume),
    script:
        "../scripts/measure_volume.py"


rule measure_pack:
    """Count the grey values of small volumes that share a job."""
    input:
        volumes=datasets_of_pack,
    output:
        counted="<results>/archives/{archive}/{volume}/counted.json",
    log:
        "<logs>/intensity/archives/{archive}/{volume}/counted.log",
    benchmark:
        "<costs>/intensity/archives/{archive}/{volume}_counted.tsv"
    resources:
        mem_mb=raised(2000),
        runtime=minutes(10),
    params:
        code=code("measure_pack.py"),
        rows=lambda wildcards: {
            volume: row_to_measure(wildcards, volume) for volume in pack(wildcards)
        },
        paths=for_each_volume(histogram=rules.measure_volume.output.histogram),
        restored=restored(
            in_results("archives/{archive}/{volume}/counted.json"),
            outputs_of([rules.measure_volume.output.histogram]),
        ),
    script:
        "../scripts/measure_pack.py"
