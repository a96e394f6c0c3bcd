"""The command line: `icreward reproduce`, `prepare`, `costs`, `study` and `score`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from icreward_lib.cli import score, study
from icreward_lib.cli.reproduce import reproduce
from icreward_lib.run.files import DiskFullError
from icreward_lib.run.models import ROOT
from icreward_lib.run.profile import load_profile


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives 0, or 1 after a failure, 2 after wrong usage, 130 if interrupted, or `score`'s 3."""
    chosen = _parser().parse_args(arguments)
    if getattr(chosen, "models", None):
        os.environ[ROOT] = str(chosen.models)  # kernels inherit it
    try:
        return chosen.command(chosen) or 0
    except (ValueError, DiskFullError, FileNotFoundError, MemoryError) as error:
        print(f"icreward: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nicreward: interrupted; the same command goes on from what has been written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="icreward", description="Image-to-video consistency rewards.")
    commands = parser.add_subparsers(required=True, metavar="command")
    profile = argparse.ArgumentParser(add_help=False)
    profiles = "laptop (default), smoke, paper, or the path of a YAML file"
    profile.add_argument("--profile", default="laptop", help=profiles)
    models = argparse.ArgumentParser(add_help=False)
    models.add_argument(
        "--models", type=_folder, metavar="DIR",
        help="folder of models laid out like the hub, DIR/<owner>/<name>; no hub is used",
    )  # fmt: skip

    purpose = "run the notebooks, regenerate figures and results"
    run = commands.add_parser("reproduce", parents=[profile, models], help=purpose)
    run.set_defaults(command=_reproduce)
    which = run.add_mutually_exclusive_group()
    which.add_argument("--from", dest="first", metavar="NN", help="begin with this notebook (default: 01)")
    which.add_argument("--only", metavar="NN", help="run this notebook only")
    run.add_argument("--force", action="store_true", help="run notebooks that are up to date, too")
    run.add_argument(
        "-p", dest="parameters", action="append", default=[], type=_setting, metavar="name=value",
        help="set a parameter of the notebooks that have it; may be given several times",
    )  # fmt: skip
    run.add_argument("--save-notebooks", action="store_true", help="replace notebooks/ by the executed copies")

    ahead = commands.add_parser(
        "prepare", parents=[profile, models], help="make what takes long, on several GPUs",
        description="Makes all stages of the notebooks, which then find them finished. On several GPUs: "
        "accelerate launch -m icreward_lib prepare --profile paper",
    )  # fmt: skip
    ahead.set_defaults(command=_prepare)
    ahead.add_argument(
        "--changes", type=_changes, default={}, metavar="{name: value}",
        help="settings to change, by their dotted names, as the notebooks' parameter 'changes'",
    )  # fmt: skip

    purpose = "expected GPU memory, disk and GPU-hours of every stage of the public models"
    costs = commands.add_parser("costs", parents=[profile], help=purpose)
    costs.set_defaults(command=_costs)
    study.add_command(commands)
    score.add_command(commands, models)
    return parser


def _reproduce(chosen: argparse.Namespace) -> None:
    reproduce(
        chosen.profile,
        first=chosen.first,
        only=chosen.only,
        force=chosen.force,
        parameters=dict(chosen.parameters),
        save_notebooks=chosen.save_notebooks,
        program="python -m icreward_lib" if sys.argv[0].endswith("__main__.py") else sys.argv[0],
    )


def _prepare(chosen: argparse.Namespace) -> None:
    from icreward_lib.cli.prepare import prepare  # here and below: all frameworks, which take seconds

    prepare(chosen.profile, chosen.changes)


def _costs(chosen: argparse.Namespace) -> None:
    from icreward_lib.cli import costs

    print(costs.to_markdown(costs.costs(load_profile(chosen.profile))))


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text).resolve()


def _changes(text: str) -> dict[str, object]:
    with suppress(yaml.YAMLError):
        if isinstance(changes := yaml.safe_load(text), dict):
            return changes
    raise argparse.ArgumentTypeError(f"'{text}' is not of the form {{name: value}}")


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form name=value")
    return name, value
