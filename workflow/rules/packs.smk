# Functions of the rules that deal with small volumes, which share jobs, and of those that follow them


def job_of(archive, volume):
    """Volume that the jobs of one are named by: the first of those that share them, or itself."""
    return plans_of(archive)[volume].get("pack", volume)


def made_by(own, of_pack, archive, volume):
    """Output of a volume's own job, or of the one that it shares."""
    output = of_pack if "pack" in plans_of(archive)[volume] else own
    return output.format(archive=archive, volume=job_of(archive, volume))


def finished(wildcards):
    """Input function: what says that a volume's prediction is finished."""
    own, of_pack = (
        rules.finish_prediction.output.facts,
        rules.finish_pack.output.finished,
    )
    return made_by(own, of_pack, wildcards.archive, wildcards.volume)


def segmented(wildcards):
    """Input function: what says that a volume is segmented."""
    return segmented_by(wildcards.archive, wildcards.volume)


def segmented_by(archive, volume):
    """Summary of a volume, or the receipt of those that share a job; what says that values are measured."""
    if tells_values(archive, volume):
        measured = rules.measure_values.output.measured
        return measured.format(archive=archive, volume=job_of(archive, volume))
    own, of_pack = (
        rules.segment_volume.output.summary,
        rules.segment_pack.output.segmented,
    )
    return made_by(own, of_pack, archive, volume)


def segmentation_of_volume(wildcards):
    """Input function: instances of a volume to be scored; none of values."""
    values = tells_values(wildcards.archive, wildcards.volume)
    return [] if values else rules.segment_volume.output.segmentation


def ready_to_score(wildcards):
    """Input function: what says that volumes which share a job can be scored."""
    values = tells_values(wildcards.archive, wildcards.volume)
    return finished(wildcards) if values else segmented(wildcards)


def scored_by(archive, volume):
    """The same of its scores."""
    own, of_pack = (
        rules.evaluate_volume.output.metrics,
        rules.evaluate_pack.output.scored,
    )
    return made_by(own, of_pack, archive, volume)


def scored(wildcards):
    """Input function: what says that volumes of a job are scored; nothing without truth."""
    return [
        scored_by(wildcards.archive, volume) for volume in with_truth(wildcards)[:1]
    ]


def of_volumes(file_by, only_scored=False):
    """Input function: these files of the volumes of an archive, each once."""

    def paths(wildcards):
        names = volumes_of(wildcards.archive, only_scored)
        return list({file_by(wildcards.archive, name): None for name in names})

    return paths


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


def members(wildcards):
    """Volumes that a job deals with, which is named by the first of them."""
    return list(pack(wildcards)) if "pack" in planned(wildcards) else [wildcards.volume]


def with_truth(wildcards):
    """Those of them whose rows name their truth."""
    return [
        volume
        for volume in members(wildcards)
        if rows_of(wildcards.archive)[volume].get("truth")
    ]


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
    found = {}
    for volume, receipt in receipts_of_pack(wildcards).items():
        plan = pack(wildcards)[volume]
        (name,) = plan["blocks"]
        folder = folder_of(wildcards.archive, volume)
        found[volume] = {
            "path": plan["path"],
            "block": name,
            "job": only_block(plan)["job"],
            "repaired": states.repaired(Path(receipt), plan["path"]),
            "histograms": f"{folder}/intensity.json" if own else "",
        }
    return found


def receipts_of_pack(wildcards):
    """Receipts of the volumes that share a job."""
    return {
        volume: receipts_of_blocks(wildcards.archive, volume)[0]
        for volume in pack(wildcards)
    }


def datasets_of_pack(wildcards):
    """Images of the datasets that volumes which share a job belong to."""
    rows = rows_of(wildcards.archive)
    rows = [{"path": rows[volume]["path"]} for volume in pack(wildcards)]
    return expand(rules.prepare_dataset.output.images, dataset=sheets.datasets_in(rows))


def rows_of_pack(wildcards):
    """What of their plans the finished predictions of a pack depend on."""
    return {
        volume: row_to_finish(plan) | {"block": next(iter(plan["blocks"]))}
        for volume, plan in pack(wildcards).items()
    }


def truths_of_pack(wildcards):
    """Truths of the volumes that share a job, and what tells them from others."""
    rows = sheet_rows(wildcards.archive)
    return {
        volume: {
            "truth": rows[volume]["truth"],
            "state": state_of_truth(wildcards.archive, volume),
        }
        for volume in with_truth(wildcards)
    }


def datasets_of_truths(wildcards):
    """Images of the datasets that truths of a pack belong to."""
    rows = rows_of(wildcards.archive)
    truths = [{"path": rows[volume]["truth"]} for volume in with_truth(wildcards)]
    return expand(
        rules.prepare_dataset.output.images, dataset=sheets.datasets_in(truths)
    )


def predictions_of_job(wildcards):
    """Predictions of the volumes that a job deals with."""
    folder = f"{RUN.results}/archives/{wildcards.archive}"
    return [f"{folder}/{volume}/prediction.ome.zarr" for volume in members(wildcards)]


def for_each_volume(**outputs):
    """Params function: paths of an archive's volumes, in which {volume} stands for the name."""
    return lambda wildcards: {
        name: path.replace("{archive}", wildcards.archive)
        for name, path in outputs.items()
    }


def outputs_of(output, volumes=members):
    """Function of wildcards: these files of the volumes that a job deals with."""
    return lambda wildcards: [
        path.format(archive=wildcards.archive, volume=volume)
        for volume in volumes(wildcards)
        for path in output
    ]


def restored(receipt, results):
    """Params function: what tells a job some of whose results were removed since."""
    return lambda wildcards: states.restored(
        Path(receipt.format(**wildcards)), map(Path, results(wildcards))
    )
