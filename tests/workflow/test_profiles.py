"""Profiles of clusters: what they name exists, and jobs say what they need."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT, Project
from snakemake.cli import get_argument_parser

pytestmark = pytest.mark.workflow

PROFILES = sorted((ROOT / "profiles").iterdir())
CLUSTERS = [path for path in PROFILES if path.name != "default"]
TEXT = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
RULES = dict(re.findall(r"^(?:rule|checkpoint) (\w+):\n((?:    .*\n|\n)+)", TEXT, re.MULTILINE))
"""Text of each rule by its name."""


def read(profile: Path) -> dict[str, Any]:
    """Return what a profile sets."""
    values: dict[str, Any] = yaml.safe_load((profile / "config.yaml").read_text())
    return values


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.name)
def test_a_profile_sets_options_that_exist(profile: Path) -> None:
    values = read(profile)
    options = {name for action in get_argument_parser()._actions for name in action.option_strings}
    plugin = f"--{values.get('executor')}-"
    if not any(name.startswith(plugin) for name in options):  # one that is not installed
        values = {key: value for key, value in values.items() if not f"--{key}".startswith(plugin)}
    assert {f"--{key}" for key in values} <= options


@pytest.mark.parametrize("profile", CLUSTERS, ids=lambda path: path.name)
def test_a_profile_proposes_rules_that_exist_and_joins_no_groups(profile: Path) -> None:
    # Groups that are joined while checkpoints end are run twice, and what follows them not at all.
    assert "group-components" not in read(profile)
    text = (profile / "config.yaml").read_text()
    assert set(re.findall(r"^#   (\w+): \{", text, re.MULTILINE)) <= RULES.keys()


@pytest.mark.parametrize("profile", CLUSTERS, ids=lambda path: path.name)
def test_profiles_agree_where_the_cluster_does_not_matter(profile: Path) -> None:
    default, values = read(ROOT / "profiles/default"), read(profile)
    for key in ("rerun-triggers", "keep-going"):
        assert values[key] == default[key]
    for key in ("retries", "resources", "set-resource-scopes", "latency-wait"):
        assert values[key] == read(ROOT / "profiles/slurm")[key]


def needs(project: Project, *arguments: str) -> dict[str, dict[str, int]]:
    """Return the resources of all jobs by rule, but those of local ones."""
    text = project.snakemake("--dry-run", "--forceall", *arguments).stdout
    found = {}
    for rule, line in re.findall(
        r"^ *(?:rule|checkpoint) (\w+):\n(?: +\w+: .*\n)*? +resources: (.*)\n", text, re.M
    ):
        if rule == "all" or "localrule: True" in RULES[rule]:
            continue
        pairs = (pair.split("=") for pair in line.split(", "))
        found[rule] = {name: int(value) for name, value in pairs if value.isdigit()}
    return found


def test_every_job_says_what_it_needs_and_gets_more_at_the_next_attempt(finished: Project) -> None:
    first, second = needs(finished), needs(finished, "--attempt", "2")
    assert {"prepare_dataset", "train_model", "segment_pack", "build_report"} <= first.keys()
    assert "summarise_archive" not in first
    for rule, of in first.items():
        for name in ("mem_mb", "runtime"):
            assert second[rule][name] == 2 * of[name] > 0, (rule, name)
    assert all("gpu" in first[rule] for rule in ("train_model", "predict_images", "predict_pack"))
    for rule in ("predict_pack", "finish_pack", "segment_pack"):
        assert first[rule]["disk_mb"] > 0


def test_a_batch_system_that_kills_a_job_is_asked_for_more(fresh: Project, tmp_path: Path) -> None:
    # A Grid Engine whose first job is killed and whose others run at once.
    commands = {
        "qsub": 'n=$(cat asked | wc -l); echo "$@" >>asked; for job; do :; done; echo $n\n'
        "if [ $n = 0 ]; then echo 137 >0.exit; exit; fi\n"
        '(cd "$PROJECT" && sh "$job" >/dev/null 2>&1; echo $? >"$OLDPWD/$n.exit") >/dev/null &',
        "qstat": '[ "$1" = "" ] || ! [ -f "$2.exit" ]',
        "qacct": 'echo "failed 0"; echo "exit_status $(cat "$2.exit")"',
        "qdel": "",
    }
    (tmp_path / "asked").touch()
    for name, text in commands.items():
        (tmp_path / name).write_text(f'#!/bin/sh\ncd "{tmp_path}"\n{text}\n')
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PROJECT": str(fresh.path)}
    call = ("-m", "snakemake", "--workflow-profile", "profiles/sge", "--latency-wait", "5")
    replace(fresh, call=call, environment=environment).snakemake(
        "--seconds-between-status-checks", "1", "results/datasets/tiny/index.json"
    )
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert "-pe smp 1 -l h_rt=7200 -l h_vmem=2000M" in first
    assert "-pe smp 1 -l h_rt=14400 -l h_vmem=4000M" in second
    assert (fresh.path / "results/datasets/tiny/index.json").is_file()
