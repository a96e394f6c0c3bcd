"""The command line: `icreward reproduce`, `icreward costs`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from icreward_lib.files import DamagedFileError, DiskFullError
from icreward_lib.notebooks import NotebookError
from icreward_lib.profile import ProfileError, load_profile
from icreward_lib.reproduce import reproduce


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives 0, or 1 after a failure, 2 after wrong usage, 130 if interrupted."""
    program = "python -m icreward_lib" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    parser = argparse.ArgumentParser(prog="icreward", description="Image-to-video consistency rewards.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser("reproduce", help="run the notebooks, regenerate figures and results")
    run.add_argument("--profile", default="laptop", help="smoke, laptop (default) or the path of a YAML file")
    run.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder of models laid out like the hub, DIR/<owner>/<name>; no hub is used",
    )
    which = run.add_mutually_exclusive_group()
    which.add_argument("--from", dest="first", metavar="NN", help="begin with this notebook (default: 01)")
    which.add_argument("--only", metavar="NN", help="run this notebook only")
    run.add_argument("--force", action="store_true", help="run notebooks that are up to date, too")
    run.add_argument(
        "-p", dest="parameters", action="append", default=[], type=_setting, metavar="name=value",
        help="set a parameter of the notebooks that have it; may be given several times",
    )  # fmt: skip
    run.add_argument("--save-notebooks", action="store_true", help="replace notebooks/ by the executed copies")
    costs = commands.add_parser("costs", help="expected GPU memory, disk and GPU-hours of every stage")
    costs.add_argument("--profile", required=True, help="a profile of the public models, or the path of a YAML file")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "costs":
            _print_costs(chosen.profile)
            return 0
        if chosen.models is not None:
            if not chosen.models.is_dir():
                raise FileNotFoundError(f"--models: there is no folder {chosen.models}")
            os.environ["ICREWARD_MODELS"] = str(chosen.models.resolve())  # kernels inherit it
        reproduce(
            chosen.profile,
            first=chosen.first,
            only=chosen.only,
            force=chosen.force,
            parameters=dict(chosen.parameters),
            save_notebooks=chosen.save_notebooks,
            program=program,
        )
    except (NotebookError, ProfileError, DamagedFileError, DiskFullError, FileNotFoundError) as error:
        print(f"icreward: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nicreward: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _print_costs(profile: str) -> None:
    from icreward_lib import costs  # torch and the models' classes, which take seconds

    print(costs.to_markdown(costs.costs(load_profile(profile))))


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form name=value")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
