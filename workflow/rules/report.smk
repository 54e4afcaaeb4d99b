rule build_report:
    """Build the page that shows everything."""
    input:
        summaries=expand(rules.summarise_experiment.output.summary, experiment=CHOSEN),
        predictions=unannotated_predictions,
        sheets=patch_sheets,
        plans=training_plans(CHOSEN),
        tiling=tiling_facts,
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
        mem_mb=raised(2000),
        runtime=raised(30),
    params:
        code=code("build_report.py"),
        results=in_results(""),
        shown=lambda wildcards: shown({name: settled(name) for name in CHOSEN}),
        archives=ARCHIVES,
        template=digest((ROOT / "workflow/report/index.html.j2").read_text()),
        page=in_results("report/index.html"),
    script:
        "../scripts/build_report.py"


# The two rules below read the results folder as it is, all that it holds, beside a running workflow too, so they have
# neither inputs nor outputs; `make report` and `make status` call them without touching its locks.
rule report:
    """Build the page from what the results folder holds now; never train."""
    log:
        "<logs>/report/now.log",
    localrule: True
    params:
        results=RUN.results,
        shown=shown_now,
        archives=archives_now,
        page=rules.build_report.params.page,
    script:
        "../scripts/build_report.py"


rule status:
    """Print what is done and what is missing."""
    log:
        "<logs>/report/status.log",
    localrule: True
    params:
        results=RUN.results,
        shown=shown_now,
        archives=archives_now,
    script:
        "../scripts/status.py"


rule drop_prediction:
    """Remove a volume's prediction once it is segmented and scored, where it is not to be kept."""
    input:
        receipts=receipts,
        summary=rules.segment_volume.output.summary,
        metrics=metrics_of_volume,
    output:
        dropped="<results>/archives/{archive}/{volume}/dropped.json",
    log:
        "<logs>/report/archives/{archive}/{volume}.log",
    benchmark:
        "<costs>/report/archives/{archive}/{volume}.tsv"
    group:
        group_of_volume
    resources:
        mem_mb=raised(500),
        runtime=raised(60),
    params:
        code=code("drop_prediction.py"),
        prediction=in_results("archives/{archive}/{volume}/prediction.ome.zarr"),
    script:
        "../scripts/drop_prediction.py"


rule check_archive:
    """Fail, naming them, if volumes of an archive failed; everything else is made all the same."""
    input:
        summary=rules.summarise_archive.output.summary,
        dropped=dropped_predictions,
    output:
        touch("<results>/archives/{archive}/.checked"),
    log:
        "<logs>/report/archives/{archive}.log",
    benchmark:
        "<costs>/report/archives/{archive}.tsv"
    localrule: True
    params:
        code=code("check_archive.py"),
    script:
        "../scripts/check_archive.py"
