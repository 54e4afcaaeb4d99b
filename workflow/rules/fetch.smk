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


rule fetch_weights:
    """Download weights that torchvision has of a network, and verify them."""
    output:
        archive=directory("<results>/pretrained/{weights}"),
    log:
        "<logs>/fetch/{weights}.log",
    benchmark:
        "<costs>/fetch/{weights}.tsv"
    resources:
        mem_mb=raised(500),
        runtime=raised(240),
        disk_mb=2000,
    params:
        code=code("fetch_dataset.py"),
        downloads=lambda wildcards: [
            in_one_line(find_weights, f"{wildcards.weights}.pth", OVERRIDE).model_dump(
                mode="json"
            )
        ],
        record=in_results("pretrained/{weights}.downloads.json"),
    script:
        "../scripts/fetch_dataset.py"
