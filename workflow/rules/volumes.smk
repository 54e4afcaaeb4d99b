# Input and params functions of the rules that deal with the volumes of archives


@cache
def rows_of(archive):
    """Rows of an archive's sheet by their volumes."""
    return {row["volume"]: row for row in SHEETS[archive]}


def folder_of(archive, volume):
    """Folder of a volume's results."""
    return f"{RUN.results}/archives/{archive}/{volume}"


@cache
def sheet_rows(archive):
    """Rows of an archive's sheet, with the paths of volumes that are images of a dataset."""
    return {
        row["volume"]: {
            **row,
            "path": sheets.located(row["path"], Path(RUN.results)),
            "truth": sheets.located(row.get("truth", ""), Path(RUN.results)),
            "mask": sheets.located(row.get("mask", ""), Path(RUN.results)),
        }
        for row in SHEETS[archive]
    }


def sheet_experiments(wildcards):
    """Settings of the experiments that a sheet's rows name."""
    found = row_settings(wildcards.archive)
    return {name: of.model_dump(mode="json") for name, of in found.items()}


def row_settings(archive):
    """The same, by name; those of a model's row wait for no plan of a training."""
    rows = SHEETS[archive]
    trained = sheets.trained(rows)
    return {
        name: settled(name) if name in trained else EXPERIMENTS[name]
        for name in sorted({row["experiment"] for row in rows})
    }


def models_in(archive):
    """Models that a sheet's rows name."""
    return sorted({row["model"] for row in SHEETS[archive] if "model" in row})


def state_of_model(place):
    """What tells a model from another one at its path."""
    return [states.state_of_file(Path(file)) for file in sheets.model_files(place)]


def adopted(archive):
    """Facts of these models, in the same order."""
    names = [sheets.model_name(place) for place in models_in(archive)]
    return expand(rules.adopt_model.output.facts, model=names)


PLAN_FOLLOWS = {
    "intensity": {"source"},
    "model": True,
    "patches": True,
    "predict": True,
    "segment": {"job_megavoxels", "method", "seed_threshold"},
}


@cache
def archive_key(archive):
    """What a plan is made from: sheet, volumes as they are, settings and the planner's code."""
    rows = sheet_rows(archive)
    # What of a dataset is not there before the run is told by the dataset's own key.
    volumes = [
        states.state_of_file(Path(path))
        for row in SHEETS[archive]
        for column in ("path", "mask")
        for path in sheets.files_of(row.get(column, ""))
    ]
    volumes += [
        states.state_of_files(path)
        for row in SHEETS[archive]
        if EXPERIMENTS[row["experiment"]].predict.input_checksum == "data"
        for path in sheets.files_of(row["path"])
    ]
    volumes += [dataset_key(name) for name in sheets.datasets_in(SHEETS[archive])]
    models = [state_of_model(place) for place in models_in(archive)]
    settings = [
        of.model_dump(mode="json", include=PLAN_FOLLOWS)
        for of in row_settings(archive).values()
    ]
    # What could not be planned is tried again by the next run.
    folder = Path(RUN.results) / "archives" / archive
    failed = states.state_of_file(folder / archive_summary.NOT_PLANNED)
    return digest(rows, volumes, models, settings, failed, code("plan_archive.py"))


def minutes_to_plan(wildcards, attempt):
    """Resource: minutes to open the volumes of a sheet, each in 1 s. All is raised with each attempt."""
    # Where predict.input_checksum is "data" they are read as well. How large they are nobody knows yet: those that
    # take longer are left to further attempts.
    return (30 + len(SHEETS[wildcards.archive]) // 60) * attempt


def plans_of(archive):
    """Plans of an archive's volumes: as they are when current, else once they have been made."""
    path = f"{RUN.results}/archives/{archive}/plan.json"
    plan = current(path, archive_key(archive))
    if plan is None:
        if workflow.dag_settings.batch is not None:
            raise WorkflowError("--batch needs a plan: run `snakemake plan` first")
        checkpoints.plan_archive.get(archive=archive)  # raises until it is written
        plan = read_json(Path(path))
    return plan["volumes"]


def planned(wildcards):
    """Plan of a volume."""
    return plans_of(wildcards.archive)[wildcards.volume]


def planned_so_far(wildcards):
    """Plan of a volume, empty while it is not made: resources, unlike inputs, cannot wait for it."""
    try:
        return planned(wildcards)
    except IncompleteCheckpointException:
        return {}


def experiment_of(wildcards):
    """Experiment that a volume's row names."""
    return sheet_rows(wildcards.archive)[wildcards.volume]["experiment"]


def network_file(file):
    """Input function: a file of a volume's model, or of its experiment's final network, first seed."""

    @cache
    def path_of(experiment, model):
        if model:
            name = sheets.model_name(model)
            return getattr(rules.adopt_model.output, file).format(model=name)
        output = getattr(rules.train_model.output, file)
        seed = EXPERIMENTS[experiment].train.seeds[0]
        return output.format(experiment=experiment, split="final", seed=seed)

    def path(wildcards):
        row = rows_of(wildcards.archive)[wildcards.volume]
        return path_of(row["experiment"], row.get("model"))

    return path


def seeds_of_volume(wildcards):
    """What tells the seeds of its objects where images of its experiment choose them."""
    experiment = EXPERIMENTS[experiment_of(wildcards)]
    beside_model = "model" in rows_of(wildcards.archive)[wildcards.volume]
    if beside_model or not experiment.segment.seeds_are_chosen:
        return []
    return expand(
        rules.choose_seeds.output.seeds,
        experiment=experiment_of(wildcards),
        split=experiment.split.names,
        seed=experiment.train.seeds[0],
    )


def of_datasets(column):
    """Input function: images of the dataset from which a volume's row names one.

    Other files are no inputs: by its time a volume that grows would be predicted anew as a whole,
    and Snakemake would take {braces} in a path for wildcards. What there is to know of them is
    among the values of what reads them.
    """

    def path(wildcards):
        place = rows_of(wildcards.archive)[wildcards.volume].get(column, "")
        datasets = sheets.datasets_in([{"path": place}])
        return expand(rules.prepare_dataset.output.images, dataset=datasets)

    return path


def state_of_truth(archive, volume):
    """What tells a truth that is no dataset's from another; nothing where it is missing."""
    row = rows_of(archive)[volume]
    places = sheets.files_of(row.get("truth", ""))
    return [states.state_of_file(Path(place)) for place in places]


def own_histograms(wildcards):
    """Histograms of a volume whose model normalises by the volume's own, or the receipt of a pack's."""
    plan = planned(wildcards)
    if not plan["own_intensity"]:
        return []
    if "pack" in plan:
        return rules.measure_pack.output.counted
    return rules.measure_volume.output.histogram


def row_to_measure(wildcards, volume):
    """What of a volume's plan its histograms depend on, and whether it was repaired since it failed."""
    plan = plans_of(wildcards.archive)[volume]
    jobs = [of["job"] for of in plan["blocks"].values()]
    return {
        "path": plan["path"],
        "choice": volumes.choice_of(plan),
        "data": digest([job["volume"] for job in jobs], plan["shape"]),
        "missing_chunks": jobs[0]["settings"]["missing_chunks"],
        "repaired": [
            states.repaired(Path(receipt), plan["path"])
            for receipt in receipts_of_blocks(wildcards.archive, volume)[:1]
        ],
    }


def repaired(wildcards):
    """What tells a repaired volume from the one that a block has failed on."""
    path = rules.predict_block.output.receipt.format(**wildcards)
    return states.repaired(Path(path), planned(wildcards)["path"])


def row_to_finish(plan):
    """What of a volume's plan its finished prediction depends on."""
    keys = (
        "path",
        "experiment",
        "model",
        "shape",
        "voxels",
        "reason",
        "region",
        "mask",
    )
    keys += volumes.CHOICES
    return {key: value for key, value in plan.items() if key in keys}


def settings_to_finish(wildcards):
    """Settings that the metadata and levels of a prediction depend on."""
    settings = section_of(experiment_of(wildcards), "predict")
    return {key: settings[key] for key in ("output", "channels", "voxel_size_um")}


def block_code(wildcards):
    """Digest of the code that predicts a block."""
    return code("predict_block.py", f"models.{planned(wildcards)['network']}.network")


def block(wildcards):
    """Plan of a block: its job and what that needs."""
    return planned(wildcards)["blocks"][wildcards.block]


def receipts(wildcards):
    """Receipts of all blocks of a volume, or that of the pack that it shares a job with."""
    plan = planned(wildcards)
    if "pack" in plan:
        return f"{folder_of(wildcards.archive, plan['pack'])}/pack.json"
    return receipts_of_blocks(wildcards.archive, wildcards.volume)


def first_receipt(wildcards):
    """One receipt of a volume, for rules that wait for all by its finished prediction.

    They ask the plan for it, so that they are looked at again once an archive has been planned anew.
    """
    found = receipts(wildcards)
    return found if isinstance(found, str) else found[:1]


def receipts_of_blocks(archive, volume):
    """Receipts of all blocks of a volume."""
    plan = plans_of(archive)[volume]
    folder = folder_of(archive, volume)
    name = (
        "packed_{}" if "pack" in plan else "{}"
    )  # in a pack no block is a job's output
    return [
        f"{folder}/prediction_blocks/{name.format(block)}.json"
        for block in plan["blocks"]
    ]


def tells_values(archive, volume):
    """Whether a volume is predicted by a regression: of it no objects are made."""
    return plans_of(archive)[volume]["regression"]


def volumes_of(archive, only_scored=False):
    """Volumes of a sheet, or those whose rows name their truth."""
    return [
        row["volume"] for row in SHEETS[archive] if row.get("truth") or not only_scored
    ]


def dropped_predictions(wildcards):
    """Removals of predictions that are not to be kept, one of all that share a job."""
    names = [
        job_of(wildcards.archive, row["volume"])
        for row in SHEETS[wildcards.archive]
        if not EXPERIMENTS[row["experiment"]].predict.keep
    ]
    return expand(
        rules.drop_prediction.output.dropped,
        archive=wildcards.archive,
        volume=list(dict.fromkeys(names)),
    )


def volume_segmentation(wildcards):
    """Settings by which a volume is divided into instances."""
    return section_of(experiment_of(wildcards), "segment")


def jobs_that_label(wildcards):
    """Jobs that divide a volume into instances."""
    settings = EXPERIMENTS[experiment_of(wildcards)].segment
    voxels = planned(wildcards).get("voxels", 0)  # none where it cannot be read
    count = int(-(-voxels // (settings.job_megavoxels * 1e6)))
    return 1 if settings.fill_holes else count


def label_parts(output):
    """Input function: the parts in which jobs divide a large volume; none where one job does."""

    def paths(wildcards):
        count = jobs_that_label(wildcards)
        if count < 2:
            return []
        return expand(output, part=range(count), parts=count, allow_missing=True)

    return paths


def segmentation_mb(wildcards, attempt):
    """Memory of segmenting a volume, which is that of a block with its margin."""
    settings = EXPERIMENTS[experiment_of(wildcards)].segment
    return int(1000 + 150 * settings.block_megavoxels) * attempt


def plans_of_job(wildcards):
    """Plans of the volumes that a job deals with; empty while they are not made."""
    plan = planned_so_far(wildcards)
    shared = plan.get("pack") == wildcards.volume
    return list(pack(wildcards).values()) if shared else [plan]


def voxels_of(wildcards):
    """Voxels of these volumes, or of a job's part of one."""
    voxels = sum(plan.get("voxels", 0) for plan in plans_of_job(wildcards))
    return voxels / int(wildcards.get("parts", 1))


def minutes(base, voxels_per_second=5e6):
    """Resource: minutes for volumes of their size, several times those of one core.

    Of those that share a job each has 3 s to itself. All is raised with each attempt.
    """

    def needed(wildcards, attempt):
        opening = (len(plans_of_job(wildcards)) - 1) / 20
        work = voxels_of(wildcards) / voxels_per_second / 60
        return int(base + opening + work) * attempt

    return needed


def levels_mb(wildcards):
    """Disk of the coarser levels of predictions, a third of them, before compression."""
    stored = sum(plan.get("disk_bytes", 0) for plan in plans_of_job(wildcards))
    return 1 + stored // 3_000_000


def labels_mb(wildcards):
    """Disk of a job's instances before compression.

    4 bytes a voxel for those of the blocks, 4 for those of the volume, and a third for coarser levels.
    """
    return 1 + int(10 * voxels_of(wildcards) / 1e6)


def evaluation_mb(wildcards, attempt):
    """Memory of scoring volumes: that of a block or a slab, and what one of them needs beside it."""
    settings = EXPERIMENTS[experiment_of(wildcards)].evaluate
    needed = max(bytes_to_score(plan, settings) for plan in plans_of_job(wildcards))
    return int(2500 + needed / 1e6) * attempt


def bytes_to_score(plan, settings):
    """Bytes for surfaces of a volume, or for values of a plane, or of all where they are scored together.

    Values of a pixel were measured to need 153 bytes of one channel, 289 of four, 577 of eight.
    """
    shape, voxels = plan.get("shape", [0]), plan.get("voxels", 0)
    if not plan.get("regression"):
        return 70 * voxels if settings.surface_tolerance is not None else 0
    channels = shape[0] if "c" in plan.get("axes", "") else 1
    pixels = math.prod(shape[-2:]) if settings.plane_by_plane else voxels
    return (100 + 60 * channels) * pixels


def tell_of_crash():
    """Write what is known of each archive when a job has failed, so that its summary is there."""
    if workflow.is_main_process:
        for archive in ARCHIVES:
            folder = Path(RUN.results) / "archives" / archive
            experiments = {row["volume"]: row["experiment"] for row in SHEETS[archive]}
            try:
                line = archive_summary.summarise_crash(
                    folder, experiments, Path(RUN.results) / "logs"
                )
            except (OSError, ValueError) as error:  # such as a full disk
                line = f"archive {archive}: its summary cannot be written: {error}"
            print(line, file=sys.stderr)
