rule cut_patches:
    """Cut and deform the training patches of one image."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        weights=lambda wildcards: expand(
            rules.compute_weights.output.weights,
            experiment=maker(wildcards, WEIGHTS_FOLLOW),
            image=wildcards.image,
        ),
    output:
        patches=directory("<results>/experiments/{experiment}/patches/{image}.zarr"),
    log:
        "<logs>/patches/{experiment}/{image}.log",
    benchmark:
        "<costs>/patches/{experiment}/{image}.tsv"
    group:
        "image"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=code("cut_patches.py"),
        settings=patch_settings,
        geometry=network_geometry,
    script:
        "../scripts/cut_patches.py"
