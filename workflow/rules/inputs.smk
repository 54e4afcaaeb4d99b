# Input and params functions of the rules, those of several stages first, then stage by stage; those of archives are in
# volumes.smk and packs.smk


def section(name):
    """Params function: one section of an experiment's settings."""
    return lambda wildcards: section_of(wildcards.experiment, name)


@cache
def section_of(experiment, name):
    """One section of an experiment's settings, the same for all jobs that have it."""
    return getattr(EXPERIMENTS[experiment], name).model_dump(mode="json")


def dataset_name_of(experiment):
    """Dataset of an experiment."""
    return EXPERIMENTS[experiment].dataset_name


WEIGHTS_FOLLOW = ("dataset", "weights", "split.tested_planes", "model.dimensions")
PATCHES_FOLLOW = (*WEIGHTS_FOLLOW, "patches", "model.geometry", "patches_are_planned")


def maker(name, settings):
    """Experiment that makes what its variants share: the first of the file with the same ones."""
    return settings_files.first_alike(FAMILIES[name], name, settings)


def current(path, key):
    """Plain data that a checkpoint wrote before, unless it was made from something else."""
    return read_current(path, key, states.state_of_file(Path(path)))


@cache
def read_current(path, key, _state):
    """The same, read once as long as the file stays as it is."""
    return states.current_plan(Path(path), key)


def in_results(path):
    """Param: a path in the results folder that is no declared file."""
    return f"{RUN.results}/{path}".rstrip("/")


def of_dataset(path):
    """Input function: a path in the folder of an experiment's dataset."""
    return (
        lambda wildcards: f"{RUN.results}/datasets/{dataset_name_of(wildcards.experiment)}/{path}"
    )


@cache
def dataset_key(dataset):
    """What a dataset's index is made from; its files in place count by name."""
    settings = DATASETS[dataset]
    return digest(
        settings.model_dump(mode="json", exclude={"title", "licence", "citation"}),
        settings_files.files_of(settings),
        code("prepare_dataset.py"),
    )


def dataset_files(wildcards):
    """Files that a dataset is prepared from: downloaded, in place, or none."""
    settings = DATASETS[wildcards.dataset]
    if settings.downloads:
        return rules.fetch_dataset.output.archive
    return settings_files.files_of(settings)


def disk_to_fetch(wildcards):
    """MB of a dataset's downloads and what is unpacked of them; 1 GB for a size that is not known."""
    sizes = [
        download.size_bytes or 10**9
        for download in DATASETS[wildcards.dataset].downloads
    ]
    return 1 + 3 * sum(sizes) // 10**6


def index_of(dataset):
    """Index of a dataset: as it is when it is current, else once it has been made."""
    path = f"{RUN.results}/datasets/{dataset}/index.json"
    index = current(path, dataset_key(dataset))
    if index is None:
        checkpoints.prepare_dataset.get(dataset=dataset)  # raises until it is written
        index = read_json(Path(path))
    return index


@cache
def parts_of(experiment, _key):
    """Part of each image in each split; the same function as split.json is made with."""
    index = index_of(dataset_name_of(experiment))
    try:
        # Here at the latest are classes known that a dataset's own files name.
        EXPERIMENTS[experiment].evaluate.numbered_regions(index["class_names"])
        return splits.split(index["images"], EXPERIMENTS[experiment].split)
    except ValueError as error:
        raise WorkflowError(f"experiment {experiment}: {error}") from None


def images_in(experiment, split, part):
    """Images of a part of a split, in the order of the index."""
    key = dataset_key(dataset_name_of(experiment))
    index_of(dataset_name_of(experiment))
    parts = parts_of(experiment, key)[split]
    return splits.images_of(parts, part)


def predicted_images(wildcards):
    """Images that the network of a split predicts: those it tests, and frames to be tracked."""
    name = wildcards.experiment
    images = index_of(dataset_name_of(name))["images"]
    part = parts_of(name, dataset_key(dataset_name_of(name)))[wildcards.split]
    return splits.to_predict(images, part, EXPERIMENTS[name].track.enabled)


def settings_to_plan(experiment):
    """Sections that the plan of a training depends on."""
    parts = {
        "model": True,
        "automatic": True,
        "patches": {"tile"},
        "predict": {"tile"},
        "split": {"folds", "validate_on", "tested_planes"},
        "train": {"batch", "devices", "device", "memory_gb"},
    }
    chosen = EXPERIMENTS[experiment].model_dump(mode="json", include=parts)
    return chosen | {"dataset": dataset_name_of(experiment)}


def training_plan_code(experiment):
    """Digest of the code that plans a training."""
    return code(
        "plan_training.py", f"models.{EXPERIMENTS[experiment].model.network}.network"
    )


@cache
def training_plan_key(experiment):
    """What the plan of a training is made from."""
    key = dataset_key(dataset_name_of(experiment))
    return digest(key, settings_to_plan(experiment), training_plan_code(experiment))


def settled(experiment):
    """Settings of an experiment, with what its plan has chosen where they are automatic."""
    settings = EXPERIMENTS[experiment]
    if not settings.automatic:
        return settings
    path = f"{RUN.results}/experiments/{experiment}/training_plan.json"
    plan = current(path, training_plan_key(experiment))
    if plan is None:
        # Raises until it is written.
        checkpoints.plan_training.get(experiment=experiment)
        plan = read_json(Path(path))
    return settings_files.settled(settings, plan["values"])


def training_plans(experiments):
    """Plans that the settings of experiments wait for."""
    automatic = [name for name in experiments if EXPERIMENTS[name].automatic]
    return expand(rules.plan_training.output.plan, experiment=automatic)


def patch_settings(wildcards):
    """Settings of the cache, with the tile per axis."""
    experiment = settled(wildcards.experiment)
    return {
        **experiment.patches.model_dump(mode="json"),
        "tile": list(experiment.per_axis(experiment.patches.tile)),
    }


def network_geometry(wildcards):
    """Geometry of the network: all that the cache depends on of it."""
    return geometry_to_json(settled(wildcards.experiment).model.geometry)


def tested_planes(wildcards):
    """Which planes of an image are tested, where it is not tested as a whole."""
    return EXPERIMENTS[wildcards.experiment].split.tested_planes


def training_images(wildcards):
    """Images that a network learns from."""
    return images_in(wildcards.experiment, wildcards.split, "train")


def validation_images(wildcards):
    """Images that choose its best step and its threshold; none for the final network."""
    return images_in(wildcards.experiment, wildcards.split, "validate")


def seen_images(wildcards):
    """Images that a network learns from, and those that choose its best step."""
    return list(
        dict.fromkeys(training_images(wildcards) + validation_images(wildcards))
    )


def fold_models(wildcards):
    """Networks of the folds, from which the final one takes steps and threshold."""
    if wildcards.split != "final":
        return []
    return expand(
        rules.train_model.output.facts,
        split=EXPERIMENTS[wildcards.experiment].split.names,
        allow_missing=True,
    )


def chosen_seeds(wildcards):
    """What tells the seeds of a network's objects where images choose them: for the final one that of each fold."""
    experiment = EXPERIMENTS[wildcards.experiment]
    if not experiment.segment.seeds_are_chosen:
        return []
    final = wildcards.split == "final"
    return expand(
        rules.choose_seeds.output.seeds,
        split=experiment.split.names if final else wildcards.split,
        allow_missing=True,
    )


def known_planes(wildcards):
    """Which planes of validation images are known."""
    experiment = EXPERIMENTS[wildcards.experiment]
    return {
        "annotated_planes": experiment.weights.annotated_planes,
        "tested_planes": experiment.split.tested_planes,
    }


def earlier_stage(wildcards):
    """Network of the same split and seed that a training goes on from, where that is made here."""
    stage = settings_files.stage_before(
        FAMILIES[wildcards.experiment], wildcards.experiment
    )
    if stage is None:
        return []
    files = [rules.train_model.output.weights, rules.train_model.output.facts]
    return expand(files, experiment=stage, allow_missing=True)


def fetched_weights(wildcards):
    """Weights that a training starts from, where they are fetched."""
    name = settings_files.fetched_weights(EXPERIMENTS[wildcards.experiment].model)
    if name is None:
        return []
    return expand(rules.fetch_weights.output.archive, weights=Path(name).stem)


def training_threads(wildcards):
    """Threads of all processes of a training."""
    train = EXPERIMENTS[wildcards.experiment].train
    return train.threads * train.devices


def training_settings(wildcards):
    """Sections that a network depends on."""
    experiment = settled(wildcards.experiment)
    settings = experiment.model_dump(mode="json")
    chosen = {
        name: settings[name] for name in ("intensity", "patches", "model", "train")
    }
    # Validation predicts tile by tile; nothing else of prediction reaches the network.
    chosen["predict"] = {"tile": list(experiment.per_axis(experiment.predict.tile))}
    chosen["dataset"] = dataset_name_of(wildcards.experiment)
    chosen["task"] = experiment.task
    # What of a validation image is known; patches hold it already.
    chosen["weights"] = {"annotated_planes": settings["weights"]["annotated_planes"]}
    chosen["split"] = {"tested_planes": settings["split"]["tested_planes"]}
    # Other seeds of the same experiment are other jobs.
    chosen["train"]["seeds"] = [int(wildcards.seed)]
    # What the plan has chosen with it is already here.
    del chosen["train"]["memory_gb"]
    return chosen


def network_code(adaptor):
    """Params function: digest of the code that an adaptor runs with an experiment's network."""
    return lambda wildcards: code(
        adaptor, f"models.{EXPERIMENTS[wildcards.experiment].model.network}.network"
    )


# Of predict: what is done to an archive's volumes alone, or chooses images but changes none
NOT_OF_IMAGES = {
    "output",
    "channels",
    "unannotated",
    "keep",
    "block_minutes",
    "voxel_size_um",
    "missing_chunks",
    "input_checksum",
    "scheduler",
    "workers",
}


def image_prediction(wildcards):
    """Settings that predictions of an experiment's own images depend on."""
    settings = EXPERIMENTS[wildcards.experiment].predict
    return settings.model_dump(mode="json", exclude=NOT_OF_IMAGES)


def tracked_sequences(wildcards):
    """Frames of each sequence to be tracked; none where no tracks are wanted."""
    name = wildcards.experiment
    if not EXPERIMENTS[name].track.enabled:
        return {}
    images = index_of(dataset_name_of(name))["images"]
    try:
        return splits.sequences(images, predicted_images(wildcards))
    except ValueError as error:
        raise WorkflowError(f"experiment {name}: {error}") from None


def is_regression(experiment):
    """Whether an experiment's networks tell values instead of classes: of these no objects are made."""
    return EXPERIMENTS[experiment].task == "regression"


def weights_of_image(wildcards):
    """Target and border weights that patches of an image show; a regression has none."""
    if is_regression(wildcards.experiment):
        return []
    return expand(
        rules.compute_weights.output.weights,
        experiment=maker(wildcards.experiment, WEIGHTS_FOLLOW),
        image=wildcards.image,
    )


def segmentation_to_score(wildcards):
    """Objects of a split, where they are made."""
    if is_regression(wildcards.experiment):
        return []
    return expand(rules.segment_images.output.segmentation, **wildcards)


def final_pictures(experiment):
    """What the final network makes of images without truth: values, tracks, or objects."""
    if is_regression(experiment):
        return rules.predict_images.output.prediction
    if EXPERIMENTS[experiment].track.enabled:
        return rules.track_images.output.tracks
    return rules.segment_images.output.segmentation


def tracks_to_score(wildcards):
    """Tracks of a split, where they are wanted."""
    if not EXPERIMENTS[wildcards.experiment].track.enabled:
        return []
    return expand(rules.track_images.output.tracks, **wildcards)


def prediction_tile(wildcards):
    """Tile of prediction per axis; none where it is chosen for each image."""
    experiment = settled(wildcards.experiment)
    if experiment.predict.tile == "auto":
        return []
    return list(experiment.per_axis(experiment.predict.tile))


def tiling_facts(_wildcards):
    """Differences between tiles and the whole, by the first network of each experiment."""
    return [
        path
        for name, experiment in CHOSEN.items()
        for path in expand(
            rules.verify_tiling.output.facts,
            experiment=name,
            split=experiment.split.names[0],
            seed=experiment.train.seeds[0],
        )
    ]


def every_fold(output):
    """Input function: a file of each fold and seed of an experiment."""

    def paths(wildcards):
        experiment = EXPERIMENTS[wildcards.experiment]
        return expand(
            output,
            experiment=wildcards.experiment,
            split=experiment.split.names,
            seed=experiment.train.seeds,
        )

    return paths


def as_planned(name, settings):
    """Settings of an experiment with what its plan has chosen, where there is one."""
    path = Path(RUN.results) / "experiments" / name / "training_plan.json"
    if not (settings.automatic and path.is_file()):
        return settings
    return settings_files.settled(settings, read_json(path)["values"])


def shown(experiments):
    """What the report is told: settings of experiments and datasets, makers of shared files."""
    datasets = settings_files.datasets_of(experiments, REGISTRY, OVERRIDE)
    families = settings_files.load_families(FOLDER, experiments)
    follow = {"weights": WEIGHTS_FOLLOW, "patches": PATCHES_FOLLOW}
    makers = {
        name: {
            stage: settings_files.first_alike(families[name], name, settings)
            for stage, settings in follow.items()
        }
        for name in experiments
    }
    return {
        "experiments": {
            name: settings.model_dump(mode="json")
            for name, settings in experiments.items()
        },
        "makers": makers,
        "datasets": {
            name: dataset.model_dump(mode="json") for name, dataset in datasets.items()
        },
    }


def shown_now(_wildcards):
    """The same of the experiments to run and of all that the results folder holds."""
    present = settings_files.load_present(FOLDER, Path(RUN.results))
    experiments = dict(CHOSEN)
    for name, settings in present.items():
        # One whose dataset is known no more, or is another now, cannot be told about.
        with suppress(ValueError):
            settings_files.datasets_of(
                {**experiments, name: settings}, REGISTRY, OVERRIDE
            )
            experiments[name] = settings
    return shown({name: as_planned(name, it) for name, it in experiments.items()})


def archives_now(_wildcards):
    """Volumes, with their experiments, of the archives to run and of all that the results hold."""
    present = sheets.read_present(Path("config/archives"), Path(RUN.results))
    return {
        name: {row["volume"]: row["experiment"] for row in rows}
        for name, rows in (SHEETS | present).items()
    }


def unannotated_predictions(_wildcards):
    """Predictions of images without truth, which the final network makes, where wanted."""
    return [
        path
        for name, experiment in CHOSEN.items()
        if experiment.predict.unannotated and images_in(name, "final", "test")
        for path in expand(
            final_pictures(name),
            experiment=name,
            split="final",
            seed=experiment.train.seeds,
        )
    ]


def patch_sheets(_wildcards):
    """Contact sheet of the first image that each experiment's first network learns from."""
    return [
        f"{RUN.results}/experiments/{maker(name, PATCHES_FOLLOW)}/patches/{image}.png"
        for name, experiment in CHOSEN.items()
        for image in images_in(name, experiment.split.names[0], "train")[:1]
    ]


def subject_of(experiment):
    """What an exported network is about: its experiment and its dataset."""
    dataset = DATASETS[dataset_name_of(experiment)]
    return {
        "name": experiment,
        "description": EXPERIMENTS[experiment].description,
        **dataset.model_dump(mode="json", include={"title", "licence", "citation"}),
    }


def example_image(experiment):
    """Image that an exported network is shown and tested with: one that a fold tested."""
    return images_in(experiment, EXPERIMENTS[experiment].split.names[0], "test")[0]


def packages_of_experiments(_wildcards):
    """Packages of the final networks, first seed, which archives are segmented with too."""
    return [
        path
        for name, experiment in CHOSEN.items()
        for path in expand(
            rules.export_model.output.package,
            experiment=name,
            split="final",
            seed=experiment.train.seeds[0],
        )
    ]


def results_to_export(_wildcards):
    """Segmentations, or values, of all test images and of all volumes of archives, as OME-TIFF."""
    images = [
        path
        for name, experiment in CHOSEN.items()
        for path in expand(
            rules.export_images.output.folder,
            experiment=name,
            split=experiment.split.names,
            seed=experiment.train.seeds,
            picture="prediction" if is_regression(name) else "segmentation",
        )
    ]
    volumes = [
        rules.export_volume.output.file.format(
            archive=archive,
            volume=volume,
            picture="prediction" if tells_values(archive, volume) else "segmentation",
        )
        for archive in ARCHIVES
        for volume in volumes_of(archive)
    ]
    return images + volumes


def classes_to_export(_wildcards):
    """Classes of the test images of 3D networks and of all segmented volumes of archives, as NIfTI."""
    images = [
        path
        for name, experiment in CHOSEN.items()
        if experiment.model.dimensions == 3 and not is_regression(name)
        for path in expand(
            rules.nifti_images.output.folder,
            experiment=name,
            split=experiment.split.names,
            seed=experiment.train.seeds,
        )
    ]
    volumes = [
        rules.nifti_volume.output.file.format(archive=archive, volume=volume)
        for archive in ARCHIVES
        for volume in volumes_of(archive)
        if not tells_values(archive, volume)
    ]
    return images + volumes
