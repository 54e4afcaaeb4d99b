rule cut_patches:
    """Cut and deform the training patches of one image."""
    input:
        images=of_dataset("images.ome.zarr"),
        weights=weights_of_image,
        plan=lambda wildcards: training_plans([wildcards.experiment]),
    output:
        patches=directory("<results>/experiments/{experiment}/patches/{image}.zarr"),
        table="<results>/experiments/{experiment}/patches/{image}.tsv",
    log:
        "<logs>/patches/{experiment}/{image}.log",
    benchmark:
        "<costs>/patches/{experiment}/{image}.tsv"
    group:
        "image"
    resources:
        mem_mb=raised(2000),
        runtime=raised(60),
    params:
        code=code("cut_patches.py"),
        settings=patch_settings,
        geometry=network_geometry,
        weights=section("weights"),
    script:
        "../scripts/cut_patches.py"


rule draw_patches:
    """Draw some patches of one image with their deformation, target and weights."""
    input:
        images=of_dataset("images.ome.zarr"),
        patches=rules.cut_patches.output.patches,
        plan=lambda wildcards: training_plans([wildcards.experiment]),
    output:
        sheet=report(
            "<results>/experiments/{experiment}/patches/{image}.png",
            caption="../report/patches.rst",
            category="{experiment}",
            subcategory="Patches",
            labels={"image": "{image}"},
        ),
    log:
        "<logs>/sheets/{experiment}/{image}.log",
    benchmark:
        "<costs>/sheets/{experiment}/{image}.tsv"
    group:
        "image"
    resources:
        mem_mb=raised(1000),
        runtime=raised(10),
    params:
        code=code("draw_patches.py"),
        settings=patch_settings,
    script:
        "../scripts/draw_patches.py"
