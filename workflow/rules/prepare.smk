checkpoint prepare_dataset:
    """Write a dataset's pictures as OME-Zarr with labels, and their index."""
    input:
        files=dataset_files,
    output:
        # The index comes first: rules whose params wait for it need the first output as input.
        index="<results>/datasets/{dataset}/index.json",
        images=directory("<results>/datasets/{dataset}/images.ome.zarr"),
    log:
        "<logs>/prepare/{dataset}.log",
    benchmark:
        "<costs>/prepare/{dataset}.tsv"
    resources:
        mem_mb=raised(2000),
        runtime=raised(120),
    params:
        code=code("prepare_dataset.py"),
        settings=lambda wildcards: DATASETS[wildcards.dataset].model_dump(
            mode="json", exclude={"title", "licence", "citation"}
        ),
        root=lambda wildcards: DATASETS[wildcards.dataset].folder
        or f"{RUN.results}/datasets/{wildcards.dataset}/archive",
        key=lambda wildcards: dataset_key(wildcards.dataset),
    script:
        "../scripts/prepare_dataset.py"
