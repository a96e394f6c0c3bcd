"""The command line of the study: `icreward study pairs | serve | export | withdraw`."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add `study` to a parser's sub-commands."""
    study = commands.add_parser("study", help="the human study: pairs of clips, a page to rate them on, votes")
    steps = study.add_subparsers(required=True, metavar="step")

    pairs = steps.add_parser("pairs", help="make pairs.csv and its media from one folder of videos for each arm")
    pairs.set_defaults(command=_pairs)
    pairs.add_argument("--references", type=Path, required=True, metavar="DIR", help="images, <sample>.png")
    several = "an arm's videos, <sample>.mp4; give two or more"
    pairs.add_argument("--arm", action="append", required=True, type=_arm, metavar="name=DIR", help=several)
    pairs.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    pairs.add_argument("--seed", type=int, default=0, help="of the ruined copies that check attention")

    page = steps.add_parser("serve", help="serve the page and print a link for each rater")
    page.set_defaults(command=_serve)
    page.add_argument("--pairs", type=Path, required=True, metavar="CSV", help="pairs.csv")
    page.add_argument("--config", type=Path, metavar="YAML", help="settings of the study; default: its defaults")
    page.add_argument("--raters", type=int, default=20, help="number of links (default: 20)")
    page.add_argument("--votes", type=Path, metavar="FILE", help="where votes are kept (default: beside the pairs)")
    page.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    page.add_argument("--port", type=int, default=8000)
    page.add_argument("--url", type=_url, help="what links begin with, such as https://study.example.org")

    table = steps.add_parser("export", help="write the votes as CSV, and a codebook beside it")
    table.set_defaults(command=_export)
    table.add_argument("--out", type=Path, required=True, metavar="CSV")
    leave = steps.add_parser("withdraw", help="delete what a rater answered")
    leave.set_defaults(command=_withdraw)
    leave.add_argument("code", help="the rater's withdrawal code")
    for step in (table, leave):
        step.add_argument("--votes", type=Path, required=True, metavar="FILE", help="where votes are kept")


def _arm(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not (name and folder):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form name=folder")
    return name, Path(folder)


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise argparse.ArgumentTypeError(f"'{text}' does not begin with https:// or http://")
    return text.rstrip("/")


def _pairs(chosen: argparse.Namespace) -> None:
    from icreward_lib.study.pairs import from_folders, write_pairs  # here and below: what takes seconds

    samples = from_folders(chosen.references, dict(chosen.arm))
    written, dropped = write_pairs(samples, chosen.out, seed=chosen.seed)
    print(f"{chosen.out / 'pairs.csv'}: {written} pairs; {dropped} with identical clips were dropped")


def _serve(chosen: argparse.Namespace) -> None:
    from icreward_lib.study import protocol, server
    from icreward_lib.study.pairs import read_pairs
    from icreward_lib.study.store import Store

    token = server.admin_token(chosen.host)
    config, pairs = protocol.load_config(chosen.config), read_pairs(chosen.pairs)
    judged = protocol.items(config, pairs)
    votes = chosen.votes or chosen.pairs.with_name("votes.sqlite")
    with closing(Store(votes, create=True)) as store:
        store.begin(config, judged)
        store.enrol(chosen.raters, judged)
        host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host  # IPv6
        start = chosen.url or f"http://{host}:{chosen.port}"
        for number, link in store.links():
            print(f"rater {number + 1:3}  {start}/r/{link}")
        print(f"{len(judged)} items; votes are kept in {votes}. Stop with Ctrl-C; links stay valid.", flush=True)
        server.serve(store, pairs, url=start, host=chosen.host, port=chosen.port, admin_token=token)


def _export(chosen: argparse.Namespace) -> None:
    from icreward_lib.study.store import Store, export

    with closing(Store(chosen.votes)) as store:
        print(f"{chosen.out}: {export(store, chosen.out)} votes")


def _withdraw(chosen: argparse.Namespace) -> None:
    from icreward_lib.study.protocol import StudyError
    from icreward_lib.study.store import Store

    with closing(Store(chosen.votes)) as store:
        if not store.withdraw(chosen.code):
            raise StudyError(f"{chosen.votes} knows no withdrawal code {chosen.code}: its data may be deleted already.")
    print("All answers of this rater are deleted.")
