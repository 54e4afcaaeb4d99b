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
    images = index_of(dataset_name_of(experiment))["images"]
    return in_one_line(splits.split, images, EXPERIMENTS[experiment].split)


def images_in(experiment, split, part):
    """Images of a part of a split, in the order of the index."""
    key = dataset_key(dataset_name_of(experiment))
    index_of(dataset_name_of(experiment))
    parts = parts_of(experiment, key)[split]
    return [image for image, its_part in parts.items() if its_part == part]


checkpoint prepare_dataset:
    """Write a dataset's pictures as OME-Zarr with labels, and their index."""
    input:
        files=dataset_files,
    output:
        # The index comes first: rules whose params wait for it need the first output as input.
        index="<results>/datasets/{dataset}/index.json",
        images=directory("<results>/datasets/{dataset}/images.ome.zarr"),
    log:
        "<logs>/prepare/{dataset}.log",
    benchmark:
        "<costs>/prepare/{dataset}.tsv"
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        code=code("prepare_dataset.py"),
        settings=lambda wildcards: DATASETS[wildcards.dataset].model_dump(mode="json"),
        root=lambda wildcards: DATASETS[wildcards.dataset].folder
        or f"{RUN.results}/datasets/{wildcards.dataset}/archive",
        key=lambda wildcards: dataset_key(wildcards.dataset),
    script:
        "../scripts/prepare_dataset.py"
