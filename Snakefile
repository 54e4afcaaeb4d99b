from snakemake.utils import min_version

min_version("9.20")


configfile: "config/config.yaml"


# Only with --software-deployment-method apptainer: an image in which this project is installed
container: "docker://unetflow:0.1.0"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/volumes.smk"
include: "workflow/rules/packs.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/intensity.smk"
include: "workflow/rules/weights.smk"
include: "workflow/rules/patches.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/export.smk"


rule all:
    default_target: True
    input:
        # The report alone would not do: one that is there, of other experiments, waits for no checkpoint of a new one.
        expand(rules.summarise_experiment.output.summary, experiment=CHOSEN),
        rules.build_report.output,
        expand(rules.check_archive.output, archive=ARCHIVES),


# With a limit, each job that ends has Snakemake look for jobs once more in every second of the rest of the run: the
# one that it has by default is left out, --max-jobs-per-timespan is kept.
onstart:
    limiter = workflow.scheduler.job_rate_limiter
    if limiter and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


# Data that are bad are results; of what else fails the summaries of archives tell as well.
onerror:
    tell_of_crash()


# Runs each time: it has no outputs.
rule plan:
    """Print what the volumes of each archive take."""
    input:
        expand(rules.plan_archive.output, archive=ARCHIVES),
    log:
        "<logs>/plan/plan.log",
    localrule: True
    script:
        "workflow/scripts/show_plan.py"
