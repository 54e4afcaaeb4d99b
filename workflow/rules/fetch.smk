rule fetch_dataset:
    """Download a dataset's original, verify it, and unpack it."""
    output:
        archive=directory("<results>/datasets/{dataset}/archive"),
    log:
        "<logs>/fetch/{dataset}.log",
    benchmark:
        "<costs>/fetch/{dataset}.tsv"
    resources:
        mem_mb=raised(500),
        runtime=raised(240),
        disk_mb=disk_to_fetch,
    params:
        code=code("fetch_dataset.py"),
        downloads=lambda wildcards: DATASETS[wildcards.dataset].model_dump(
            mode="json"
        )["downloads"],
        record=in_results("datasets/{dataset}.downloads.json"),
    script:
        "../scripts/fetch_dataset.py"
