# What the page is put together from
PARTS_OF_PAGE = sorted(
    path
    for ending in ("j2", "js", "css")
    for path in (ROOT / "workflow/report").glob(f"*.{ending}")
)


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
            labels={"figure": "everything on one page"},
        ),
        figures=report(
            directory("<results>/report/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Report",
            subcategory="Figures",
            labels={"figure": "{figure}"},
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
        results=lambda wildcards: RUN.results,
        shown=lambda wildcards: shown({name: settled(name) for name in CHOSEN}),
        archives=ARCHIVES,
        template=digest(*(path.read_text() for path in PARTS_OF_PAGE)),
        page=lambda wildcards, output: output.page,
    script:
        "../scripts/build_report.py"


# The three rules below read the results folder as it is, all that it holds, beside a running workflow too, so they have
# neither inputs nor outputs; `make report`, `make status` and `make view` call them without touching its locks.
rule report:
    """Build the page from what the results folder holds now; never train."""
    log:
        "<logs>/report/now.log",
    localrule: True
    params:
        results=RUN.results,
        shown=shown_now,
        archives=archives_now,
        page=in_results("report/index.html"),
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


rule view:
    """Serve volumes to a browser on this machine until it is interrupted."""
    log:
        "<logs>/report/view.log",
    localrule: True
    params:
        results=RUN.results,
        archives=archives_now,
        wanted=RUN.view,
        port=RUN.view_port,
    script:
        "../scripts/view.py"


rule describe_run:
    """Describe a finished run as a Workflow Run RO-Crate."""
    input:
        report=rules.build_report.output.page,
        plans=training_plans(CHOSEN),
        archives=expand(rules.summarise_archive.output.summary, archive=ARCHIVES),
    output:
        crate="<results>/ro-crate-metadata.json",
        code=directory("<results>/as_run"),
    log:
        "<logs>/report/crate.log",
    localrule: True
    params:
        code=code("describe_run.py"),
        copied=[str(ROOT / "Snakefile"), str(ROOT / "workflow"), "config"],
        results=lambda wildcards: RUN.results,
        shown=lambda wildcards: shown({name: settled(name) for name in CHOSEN}),
        archives={name: volumes_of(name) for name in ARCHIVES},
    script:
        "../scripts/describe_run.py"


rule drop_prediction:
    """Remove predictions of a job once they are segmented and scored, if they are not to be kept."""
    input:
        receipt=first_receipt,
        segmented=segmented,
        scored=scored,
    output:
        dropped="<results>/archives/{archive}/{volume}/dropped.json",
    log:
        "<logs>/report/archives/{archive}/{volume}.log",
    benchmark:
        "<costs>/report/archives/{archive}/{volume}.tsv"
    resources:
        mem_mb=raised(500),
        runtime=minutes(5),
    params:
        code=code("drop_prediction.py"),
        predictions=predictions_of_job,
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
