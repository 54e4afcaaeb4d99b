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
        mem_mb=raised(8000),
        runtime=raised(60),
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


rule submit_isbi2012:
    """Write the predicted test sections of a split as a submission to ISBI 2012."""
    input:
        index=of_dataset("index.json"),
        prediction=rules.predict_images.output.prediction,
    output:
        stack="<results>/experiments/{experiment}/{split}/seed{seed}/export/submission.tif",
    log:
        "<logs>/export/{experiment}/{split}/seed{seed}.submission.log",
    benchmark:
        "<costs>/submission/{experiment}/{split}_seed{seed}.tsv"
    resources:
        mem_mb=raised(2000),
        runtime=raised(30),
    params:
        code=code("submit_isbi2012.py"),
        test=lambda wildcards: images_in(wildcards.experiment, wildcards.split, "test"),
    script:
        "../scripts/submit_isbi2012.py"


rule export:
    """Export the final network of each experiment, first seed."""
    input:
        packages_of_experiments,
