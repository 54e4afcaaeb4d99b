rule export_model:
    """Write a network as a bioimage.io model package, tested in every format that it holds."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        facts=rules.train_model.output.facts,
        weights=rules.train_model.output.weights,
        summary=rules.summarise_experiment.output.summary,
    output:
        package="<results>/experiments/{experiment}/{split}/seed{seed}/export/{experiment}.zip",
        agreement="<results>/experiments/{experiment}/{split}/seed{seed}/export/agreement.json",
    log:
        "<logs>/export/{experiment}/{split}/seed{seed}.log",
    benchmark:
        "<costs>/export/{experiment}/{split}_seed{seed}.tsv"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        code=lambda wildcards: code(
            "export_model.py",
            f"models.{EXPERIMENTS[wildcards.experiment].model.network}",
        ),
        settings=section("export"),
        subject=lambda wildcards: subject_of(wildcards.experiment),
        image=lambda wildcards: example_image(wildcards.experiment),
    script:
        "../scripts/export_model.py"


rule export:
    """Export the final network of each experiment, first seed."""
    input:
        packages_of_experiments,
