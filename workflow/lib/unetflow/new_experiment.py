"""Writes an experiment file for a user's own pictures and masks, after a look at them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from itertools import takewhile
from pathlib import Path
from statistics import median

import numpy as np
from skimage.measure import label

from unetflow.datasets.layouts import pairs
from unetflow.datasets.patterns import name_image
from unetflow.datasets.prepare import checked
from unetflow.models.unet.settings import UNetSettings
from unetflow.outlines import ENDINGS
from unetflow.settings.datasets import PairsLayout
from unetflow.store import write_text

LOOKED_AT = 5
LARGEST_TILE = 572
SEEDS = "  seed_threshold: auto  # the best on the validation images\n"
TEMPLATE = """\
# yaml-language-server: $schema=../../workflow/schemas/experiment.schema.json
# {count} images of about {shape} pixels; every key: config/README.md
description: "{name}"

dataset:
  name: "{name}"
  title: "{name}"
  folder: {folder}  # read in place, never changed
  layout:
    kind: pairs
    images: {images}  # {{image}} is the name that pairs an image with its mask
    masks: {masks}
    labels_are: {labels_are}  # {why_labels}
{classes}
split:
  unit: image  # group, if images of one slide or patient must stay together
  folds: {folds}  # each image is tested once, by a network that never saw it

intensity:
  normalise: {normalise}  # {why_normalise}
  source: image  # by each image's own statistics; training: the training set's

weights:
  w0: {w0}  # {why_w0}
  sigma: 5  # width of the border term, pixels
  balance_classes: {balance}  # {why_balance}

patches:
  tile: {tile}  # {why_tile}
  per_image: {per_image}  # about 500 patches in all
  elastic_sigma: 10  # pixels; 0 for rigid objects

model:
  width: 32  # 64 in the paper; 16 is quick on a CPU
  depth: {depth}  # {why_depth}

train:
  recipe: modern  # adamw, one cycle, bfloat16 where the device has it; paper: sgd
  steps: 2000  # at least 10 passes over the patches
  batch: 2

predict:
  orientations: 8  # mean over flips and turns: slower, better
  precision: auto  # bfloat16 where the device has it

segment:
  method: {method}  # {why_method}
{seeds}  threshold: auto  # the best on the validation images
  minimum_size: {minimum_size}  # {why_size}
"""


def describe(name: str, images: str, masks: str) -> str:
    """Return the text of an experiment file for pictures and masks that two patterns find.

    Raises
    ------
    ValueError
        If nothing matches, a mask is missing or of another shape, or there are under three images.
    """
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise ValueError(f"NAME must be letters, digits, - and _: got {name!r}; choose another")
    if not (images and masks):
        raise ValueError(
            "IMAGES and MASKS must be patterns such as 'data/images/*.tif': one is empty"
        )
    folder = common_folder(images, masks)
    here = [
        Path(pattern).absolute().relative_to(folder.absolute()).as_posix()
        for pattern in (images, masks)
    ]
    layout = PairsLayout(kind="pairs", images=name_image(here[0]), masks=name_image(here[1]))
    found = list(pairs(layout, folder))
    if len(found) < 3:
        raise ValueError(
            f"{images}: three images are the least (train, validate, test): found {len(found)}"
        )
    looked = [checked(source, *source.read()) for source in found[:: -(-len(found) // LOOKED_AT)]]
    areas, touching, values = [], False, set[int]()
    most, ids_in_all, pieces = 0, 0, 0
    for _, _, mask in looked:
        ids = np.asarray(mask).astype(np.int64)
        found_ids = np.unique(ids[ids > 0])
        values |= {0, *found_ids[:100].tolist()}
        most, ids_in_all = max(most, len(found_ids)), ids_in_all + len(found_ids)
        pieces += int(label(ids, background=0, connectivity=1).max())
        areas += [int(area) for area in np.bincount(ids.ravel())[1:] if area]
        right, down = (ids[:, 1:], ids[:, :-1]), (ids[1:], ids[:-1])
        touching |= any(((a != b) & (a > 0) & (b > 0)).any() for a, b in (right, down))
    if not areas:
        raise ValueError(f"{masks}: masks must have objects: all that were looked at are empty")
    # An object is mostly in one piece, a class in many; a single value tells objects not apart.
    why_classes = (
        ": one value for all objects" if most < 2 else " in many pieces: no ids of objects"
    )
    outlined = Path(layout.masks).suffix.lower() in ENDINGS
    instances = outlined or (most > 1 and pieces < 2 * ids_in_all)
    foreground = float(np.mean([(np.asarray(mask) > 0).mean() for _, _, mask in looked]))
    shape = tuple(
        int(median(extents))
        for extents in zip(*(pixels.shape for pixels, _, _ in looked), strict=True)
    )
    depth = 4 if min(shape[-2:]) >= 200 else 3
    axis = UNetSettings(depth=depth).geometry[0]
    tile = min(axis.nearest(LARGEST_TILE)[0], axis.input_for(min(shape[-2:])))
    size = int(np.percentile(areas, 1) / 4) if instances else 0
    names = "" if instances else class_lines(sorted(values))
    text = TEMPLATE.format(
        name=name,
        count=len(found),
        shape=" x ".join(map(str, shape)),
        folder=quoted(str(folder)),
        images=quoted(layout.images),
        masks=quoted(layout.masks),
        labels_are="instances" if instances else "classes",
        why_labels="outlines of objects"
        if outlined
        else f"mask values {', '.join(map(str, sorted(values)[:4]))}"
        + (", ..., each in one piece" if instances else why_classes),
        classes=names,
        folds=min(5, len(found)),
        normalise="percentile",
        why_normalise="maps 0.5 % and 99.5 % to 0 and 1, robust against bright spots",
        w0=10 if touching else 5,
        why_w0="objects touch: learn the lines between them" if touching else "few objects touch",
        balance="true" if foreground < 0.1 else "false",
        why_balance=f"objects cover {foreground:.0%} of the pixels",
        tile=tile,
        why_tile=f"input extent: {axis.minimum} plus a multiple of {axis.divisor}; as large as "
        f"the images, or {LARGEST_TILE}",
        per_image=max(4, 500 // len(found)),
        depth=depth,
        why_depth=f"sees {2 * axis.halo} pixels around each pixel",
        minimum_size=size,
        why_size="a quarter of the smallest objects in the masks" if size else "0 keeps all",
        method="watershed" if touching else "components",
        why_method="divides what touches" if touching else "connected components",
        seeds=SEEDS if touching else "",
    )
    return "\n".join(aligned(line) for line in text.splitlines()) + "\n"


def aligned(line: str) -> str:
    """Return a line whose remark, if it has one, begins in a common column."""
    setting, mark, remark = line.partition("  # ")
    return f"{setting:<35} # {remark}" if mark else line


def quoted(text: str) -> str:
    """Return a text as YAML that means it, whatever its characters."""
    return json.dumps(text, ensure_ascii=False)


def class_lines(values: list[int]) -> str:
    """Lines that name the classes of a class mask."""
    names = ["background", "foreground", *(f"class{number}" for number in range(2, len(values)))]
    pairs_of = ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=False))
    return f"    classes: {{{pairs_of}}}   # rename as you like; the first is background\n"


def common_folder(images: str, masks: str) -> Path:
    """Longest folder that both patterns name in full."""
    plain = [Path(*plain_parts(Path(pattern).parent.parts)) for pattern in (images, masks)]
    same = takewhile(
        lambda pair: pair[0] == pair[1], zip(*(it.parts for it in plain), strict=False)
    )
    return Path(*(part for part, _ in same))


def plain_parts(parts: tuple[str, ...]) -> list[str]:
    """Parts of a path before the first pattern."""
    plain: list[str] = []
    for part in parts:
        if re.search(r"[*?{\[]", part):
            break
        plain.append(part)
    return plain


def main() -> None:
    """Write config/experiments/NAME.yaml."""
    parser = argparse.ArgumentParser(prog="new-experiment", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--images", required=True, help="pattern such as 'data/images/*.tif'")
    parser.add_argument("--masks", required=True, help="pattern such as 'data/masks/*.tif'")
    arguments = parser.parse_args()
    path = Path("config/experiments") / f"{arguments.name}.yaml"
    try:
        if path.exists():
            raise ValueError(f"{path}: must be new: it exists; choose another NAME or delete it")
        write_text(path, describe(arguments.name, arguments.images, arguments.masks))
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {path}; look at it, then run:")
    print(f"snakemake --cores all --config 'experiments=[{arguments.name}]' 'archives=[]'")


if __name__ == "__main__":
    main()
