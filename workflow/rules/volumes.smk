# Input and params functions of the rules that deal with the volumes of archives


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
    names = sorted({row["experiment"] for row in SHEETS[wildcards.archive]})
    return {name: settled(name).model_dump(mode="json") for name in names}


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
    names = sorted({row["experiment"] for row in rows.values()})
    settings = [
        settled(name).model_dump(mode="json", include={"model", "patches", "predict"})
        for name in names
    ]
    return digest(rows, volumes, settings, code("plan_archive.py"))


def planned(wildcards):
    """Plan of a volume: as it is when it is current, else once it has been made."""
    path = f"{RUN.results}/archives/{wildcards.archive}/plan.json"
    plan = current(path, archive_key(wildcards.archive))
    if plan is None:
        if workflow.dag_settings.batch is not None:
            raise WorkflowError("--batch needs a plan: run `snakemake plan` first")
        checkpoints.plan_archive.get(
            archive=wildcards.archive
        )  # raises until it is written
        plan = read_json(Path(path))
    return plan["volumes"][wildcards.volume]


def experiment_of(wildcards):
    """Experiment that a volume's row names."""
    return sheet_rows(wildcards.archive)[wildcards.volume]["experiment"]


def final_network(output):
    """Input function: a file of the final network, first seed, of a volume's experiment."""

    def path(wildcards):
        name = experiment_of(wildcards)
        seed = EXPERIMENTS[name].train.seeds[0]
        return expand(output, experiment=name, split="final", seed=seed)

    return path


def sheet_file(column):
    """Input function: what a volume's row names; none where it is missing, which a result tells."""

    def path(wildcards):
        rows = {row["volume"]: row for row in SHEETS[wildcards.archive]}
        place = rows[wildcards.volume].get(column, "")
        datasets = sheets.datasets_in([{"path": place}])
        if datasets:
            return expand(rules.prepare_dataset.output.images, dataset=datasets)
        return sheets.files_of(place)

    return path


def volume_of_dataset(wildcards):
    """Images of the dataset that a volume belongs to.

    Other volumes are no inputs: by their times one that grows would be predicted anew as a whole.
    What a block needs to know of them is among its values.
    """
    rows = {row["volume"]: row for row in SHEETS[wildcards.archive]}
    datasets = sheets.datasets_in([{"path": rows[wildcards.volume]["path"]}])
    return expand(rules.prepare_dataset.output.images, dataset=datasets)


def own_histograms(wildcards):
    """Histograms of a volume whose model normalises by the volume's own."""
    own = EXPERIMENTS[experiment_of(wildcards)].intensity.source == "image"
    return rules.measure_volume.output.histogram if own else []


def repaired(wildcards):
    """What tells a repaired volume from the one that a block has failed on."""
    path = rules.predict_block.output.receipt.format(**wildcards)
    return states.repaired(Path(path), planned(wildcards)["path"])


def row_to_finish(wildcards):
    """What of a volume's plan its finished prediction depends on."""
    keys = ("path", "experiment", "shape", "voxels", "reason", *volumes.CHOICES)
    return {key: value for key, value in planned(wildcards).items() if key in keys}


def settings_to_finish(wildcards):
    """Settings that the metadata and levels of a prediction depend on."""
    kept = {"output", "channels", "voxel_size_um"}
    settings = EXPERIMENTS[experiment_of(wildcards)].predict
    return settings.model_dump(mode="json", include=kept)


def block_code(wildcards):
    """Digest of the code that predicts a block."""
    network = EXPERIMENTS[experiment_of(wildcards)].model.network
    return code("predict_block.py", f"models.{network}")


def block(wildcards):
    """Plan of a block: its job and what that needs."""
    return planned(wildcards)["blocks"][wildcards.block]


def receipts(wildcards):
    """Receipts of all blocks of a volume, or that of the pack that it shares a job with."""
    plan = planned(wildcards)
    if "pack" in plan:
        return expand(
            rules.predict_pack.output.pack,
            archive=wildcards.archive,
            volume=plan["pack"],
        )
    return receipts_of_volume(wildcards)


def receipts_of_volume(wildcards):
    """Receipts of all blocks of a volume."""
    found = expand(
        rules.predict_block.output.receipt,
        archive=wildcards.archive,
        volume=wildcards.volume,
        block=planned(wildcards)["blocks"],
    )
    if "pack" in planned(wildcards):  # under a name that is no block's job
        return [
            str(Path(path).with_name(f"packed_{Path(path).name}")) for path in found
        ]
    return found


def pack(wildcards):
    """Plans of the volumes that share a job, by the first of them."""
    planned(wildcards)
    path = f"{RUN.results}/archives/{wildcards.archive}/plan.json"
    state = states.state_of_file(Path(path))
    return packs(path, archive_key(wildcards.archive), state)[wildcards.volume]


@cache
def packs(path, key, state):
    """Plans of volumes that share jobs, in groups by the first of each."""
    groups = {}
    for volume, plan in read_current(path, key, state)["volumes"].items():
        groups.setdefault(plan.get("pack"), {})[volume] = plan
    return groups


def only_block(plan):
    """The only block of a small volume."""
    return next(iter(plan["blocks"].values()))


def most_in_pack(wildcards, need):
    """Largest need among volumes that share a job."""
    return max(only_block(plan)[need] for plan in pack(wildcards).values())


def sum_in_pack(wildcards, need):
    """Needs of volumes that share a job together."""
    return sum(only_block(plan)[need] for plan in pack(wildcards).values())


def members_of_pack(wildcards):
    """Values of the volumes that share a job."""
    own = own_histograms(wildcards)
    members = {}
    for volume, plan in pack(wildcards).items():
        (name,) = plan["blocks"]
        place = {"archive": wildcards.archive, "volume": volume}
        receipt = rules.predict_block.output.receipt.format(
            block=f"packed_{name}", **place
        )
        members[volume] = {
            "path": plan["path"],
            "block": name,
            "job": only_block(plan)["job"],
            "repaired": states.repaired(Path(receipt), plan["path"]),
            "histograms": own.format(**place) if own else "",
        }
    return members


def datasets_of_pack(wildcards):
    """Images of the datasets that volumes which share a job belong to."""
    members = pack(wildcards)
    rows = [row for row in SHEETS[wildcards.archive] if row["volume"] in members]
    return expand(rules.prepare_dataset.output.images, dataset=sheets.datasets_in(rows))


def own_histograms_of_pack(wildcards):
    """Histograms of volumes whose model normalises by the volume's own."""
    return [
        of["histograms"]
        for of in members_of_pack(wildcards).values()
        if of["histograms"]
    ]


def volumes_of(archive, with_truth=False):
    """Volumes of a sheet."""
    return [
        row["volume"] for row in SHEETS[archive] if row.get("truth") or not with_truth
    ]


def metrics_of_volume(wildcards):
    """Scores of a volume whose row names its truth."""
    scored = wildcards.volume in volumes_of(wildcards.archive, with_truth=True)
    return rules.evaluate_volume.output.metrics if scored else []


def dropped_predictions(wildcards):
    """Removals of predictions that are not to be kept."""
    names = [
        row["volume"]
        for row in SHEETS[wildcards.archive]
        if not EXPERIMENTS[row["experiment"]].predict.keep
    ]
    return expand(
        rules.drop_prediction.output.dropped,
        archive=wildcards.archive,
        volume=names,
    )


def volume_segmentation(wildcards):
    """Settings by which a volume is divided into instances."""
    return EXPERIMENTS[experiment_of(wildcards)].segment.model_dump(mode="json")


def label_parts(output):
    """Input function: the parts in which jobs divide a large volume; none where one job does."""

    def paths(wildcards):
        settings = EXPERIMENTS[experiment_of(wildcards)].segment
        voxels = planned(wildcards).get("voxels", 0)  # none where it cannot be read
        count = int(-(-voxels // (settings.job_megavoxels * 1e6)))
        if count < 2 or settings.fill_holes:
            return []
        return expand(output, part=range(count), parts=count, allow_missing=True)

    return paths


def group_of_volume(wildcards):
    """Group of the small volumes, which are several to a job; none for those with jobs of their own."""
    parts = label_parts(rules.segment_part.output.blocks)(wildcards)
    return "volume" if "pack" in planned(wildcards) and not parts else None


def segmentation_mb(wildcards, attempt):
    """Memory of segmenting a volume, which is that of a block with its margin."""
    settings = EXPERIMENTS[experiment_of(wildcards)].segment
    return int(1000 + 150 * settings.block_megavoxels) * attempt


def evaluation_mb(wildcards, attempt):
    """Memory of scoring a volume: that of a block, and for surfaces that of the volume."""
    whole = EXPERIMENTS[experiment_of(wildcards)].evaluate.surface_tolerance is not None
    voxels = planned(wildcards).get("voxels", 0) if whole else 0
    return int(2500 + 70 * voxels / 1e6) * attempt
