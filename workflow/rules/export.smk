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
            f"models.{EXPERIMENTS[wildcards.experiment].model.network}.network",
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


rule export_images:
    """Write a split's predicted or segmented test images as OME-TIFF."""
    input:
        index=of_dataset("index.json"),
        prediction=rules.predict_images.output.prediction,
        segmentation=segmentation_to_score,
    output:
        folder=directory(
            "<results>/experiments/{experiment}/{split}/seed{seed}/export/{picture}"
        ),
    log:
        "<logs>/export/{experiment}/{split}/seed{seed}.{picture}.log",
    benchmark:
        "<costs>/export/{experiment}/{split}_seed{seed}_{picture}.tsv"
    resources:
        mem_mb=raised(2000),
        runtime=raised(60),
    params:
        code=code("export_images.py"),
        pictures=in_results(
            "experiments/{experiment}/{split}/seed{seed}/{picture}.ome.zarr"
        ),
        images=predicted_images,
    script:
        "../scripts/export_images.py"


rule export_volume:
    """Write a volume's prediction or segmentation as OME-TIFF."""
    input:
        receipt=first_receipt,
        segmented=segmented,
    output:
        file="<results>/archives/{archive}/{volume}/export/{picture}.ome.tif",
    log:
        "<logs>/export/archives/{archive}/{volume}.{picture}.log",
    benchmark:
        "<costs>/export/archives/{archive}/{volume}_{picture}.tsv"
    resources:
        mem_mb=raised(2000),
        runtime=raised(240),
    params:
        code=code("export_volume.py"),
        picture=in_results("archives/{archive}/{volume}/{picture}.ome.zarr"),
    script:
        "../scripts/export_volume.py"


rule nifti_images:
    """Write the classes of a split's predicted images as NIfTI, on the grid of their volumes."""
    input:
        images=of_dataset("images.ome.zarr"),
        index=of_dataset("index.json"),
        prediction=rules.predict_images.output.prediction,
    output:
        folder=directory(
            "<results>/experiments/{experiment}/{split}/seed{seed}/export/nifti"
        ),
    log:
        "<logs>/export/{experiment}/{split}/seed{seed}.nifti.log",
    benchmark:
        "<costs>/export/{experiment}/{split}_seed{seed}_nifti.tsv"
    resources:
        mem_mb=raised(4000),
        runtime=raised(60),
    params:
        code=code("write_nifti_images.py"),
        test=predicted_images,
    script:
        "../scripts/write_nifti_images.py"


rule nifti_volume:
    """Write the classes of a predicted volume as NIfTI, on the grid of its file."""
    input:
        receipts=receipts,
        predicted=finished,
    output:
        file="<results>/archives/{archive}/{volume}/export/classes.nii.gz",
    log:
        "<logs>/export/archives/{archive}/{volume}.nifti.log",
    benchmark:
        "<costs>/export/archives/{archive}/{volume}_nifti.tsv"
    resources:
        mem_mb=raised(4000),
        runtime=raised(240),
    params:
        code=code("write_nifti_volume.py"),
        prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
        facts=in_results("archives/{archive}/{volume}/prediction.json"),
    script:
        "../scripts/write_nifti_volume.py"


rule export:
    """Export the final network of each experiment, first seed."""
    input:
        packages_of_experiments,


rule ome_tiff:
    """Write the segmentation, or the values, of every volume of the archives and test image as OME-TIFF."""
    input:
        results_to_export,


rule nifti:
    """Write the classes of every segmented volume of the archives as NIfTI, and of every test image."""
    input:
        classes_to_export,
