def unannotated_predictions(_wildcards):
    """Predictions of images without truth, which the final network makes."""
    return [
        path
        for name, experiment in EXPERIMENTS.items()
        if images_in(name, "final", "test")
        for path in expand(
            rules.segment_images.output.segmentation,
            experiment=name,
            split="final",
            seed=experiment.train.seeds,
        )
    ]


rule build_report:
    """Build the page that shows everything."""
    input:
        template=str(ROOT / "workflow/report/index.html.j2"),
        summaries=expand(
            rules.summarise_experiment.output.summary, experiment=EXPERIMENTS
        ),
        predictions=unannotated_predictions,
        archives=expand(rules.summarise_archive.output.summary, archive=ARCHIVES),
    output:
        page=report(
            "<results>/report/index.html",
            caption="../report/index.rst",
            category="Report",
        ),
    log:
        "<logs>/report/report.log",
    benchmark:
        "<costs>/report/report.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("build_report.py"),
        results=RUN.results,
        experiments={
            name: experiment.model_dump(mode="json")
            for name, experiment in EXPERIMENTS.items()
        },
        datasets={
            name: dataset.model_dump(mode="json") for name, dataset in DATASETS.items()
        },
        archives=ARCHIVES,
        template=str(ROOT / "workflow/report/index.html.j2"),
        page=f"{RUN.results}/report/index.html",
    script:
        "../scripts/build_report.py"


# The two rules below read the results folder as it is, beside a running workflow too, so they have
# neither inputs nor outputs; `make report` and `make status` call them without touching its locks.
rule report:
    log:
        "<logs>/report/now.log",
    """Build the page from what the results folder holds now; never train."""
    params:
        results=RUN.results,
        experiments=rules.build_report.params.experiments,
        datasets=rules.build_report.params.datasets,
        archives=ARCHIVES,
        template=rules.build_report.params.template,
        page=rules.build_report.params.page,
    script:
        "../scripts/build_report.py"


rule status:
    log:
        "<logs>/report/status.log",
    """Print what is done and what is missing."""
    params:
        results=RUN.results,
        experiments=rules.build_report.params.experiments,
        archives={name: volumes_of(name) for name in ARCHIVES},
    script:
        "../scripts/status.py"


rule check_archive:
    """Fail, naming them, if volumes of an archive failed; everything else is made before."""
    input:
        summary=rules.summarise_archive.output.summary,
        page=rules.build_report.output.page,
    output:
        touch("<results>/archives/{archive}/.checked"),
    log:
        "<logs>/report/{archive}.log",
    benchmark:
        "<costs>/report/{archive}.tsv"
    params:
        code=code("check_archive.py"),
    script:
        "../scripts/check_archive.py"
