"""Votes: once acknowledged, never lost; never twice; deleted on request; exported in full."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pandas as pd
import pytest
from support.standins_study import imagined

from icreward_lib.cli.main import main
from icreward_lib.run.files import DiskFullError, ReadOnlyError
from icreward_lib.study.protocol import Question, StudyConfig, StudyError
from icreward_lib.study.store import Rater, RefusedError, Store, export, votes_table
from icreward_lib.study.votes import COLUMNS

ISSUE = (
    "rater trial pair sample arm_left arm_right choice question is_attention is_repeat shown_at answered_at "
    "feedback tags"
).split()


def begun(path: Path, raters: int = 2, pairs: int = 6, config: StudyConfig | None = None) -> Store:
    config = config or StudyConfig()
    judged = imagined(pairs, config.on_screen)
    store = Store(path, create=True)
    store.begin(config, judged)
    store.enrol(raters, judged)
    for _, token in store.links():
        store.consent(rater(store, token).number)
    return store


def rater(store: Store, token: str) -> Rater:
    found = store.rater(token)
    assert found is not None
    return found


def answer_all(store: Store, choose: Callable[[int], str] = lambda trial: "left") -> None:
    for _, token in store.links():
        while (now := rater(store, token)).trial is not None:
            store.vote(now, now.trial, choose(now.trial), 2.5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(begun(tmp_path / "votes.sqlite")) as store:
        yield store


def test_the_export_has_the_columns_that_other_tools_read(store: Store, tmp_path: Path) -> None:
    answer_all(store)
    (_, token), *_ = store.links()
    store.note(rater(store, token), 3, 'She said "left", loudly\nand twice', ["subject", "motion"])
    assert export(store, tmp_path / "votes.csv") == 2 * (6 + 1 + 1)
    table = pd.read_csv(tmp_path / "votes.csv", keep_default_na=False)
    assert list(table.columns) == list(COLUMNS)
    assert list(table.columns[: len(ISSUE)]) == ISSUE
    assert (table["source"] == "people").all()
    assert table["is_attention"].sum() == table["is_repeat"].sum() == 2
    trials = table[~table["is_attention"]]
    assert (trials["left"] == trials["sample"] + "/" + trials["arm_left"]).all()
    first = table[(table["rater"] == "r001") & (table["trial"] == 3)].iloc[0]
    assert (first["feedback"], first["tags"]) == ('She said "left", loudly\nand twice', "subject motion")
    times = pd.to_datetime(table["answered_at"]) - pd.to_datetime(table["shown_at"])
    assert times.dt.total_seconds().sub(2.5).abs().max() < 0.002
    book = (tmp_path / "votes.codebook.md").read_text()
    assert all(f"| {column} |" in book for column in COLUMNS)
    assert "fewer than 50% of the attention items" in book


def test_every_trial_is_won_by_the_same_arm_whichever_side_it_was_on(store: Store) -> None:
    table = votes_table(store)
    assert table.empty and list(table.columns) == list(COLUMNS)
    for _, token in store.links():
        while (now := rater(store, token)).trial is not None:
            clips = store.screen(now.number, now.trial).clips
            store.vote(now, now.trial, "left" if clips[0].arm == "arm0" else "right", 1)
    table = votes_table(store)
    trials = table[~table["is_attention"]]
    assert {row[f"arm_{row['choice']}"] for _, row in trials.iterrows()} == {"arm0"}


def test_a_ranking_becomes_a_vote_on_every_two_clips(tmp_path: Path) -> None:
    config = StudyConfig(on_screen=3, practice=0)
    with closing(begun(tmp_path / "votes.sqlite", config=config)) as store:
        answer_all(store, lambda trial: "2-0-1")
        table = votes_table(store)
    trials = table[~table["is_attention"] & ~table["is_repeat"]]
    assert len(trials) == 2 * 6 * 3
    assert trials.groupby(["rater", "trial"])["choice"].apply(list).map(tuple).unique().tolist() == [
        ("left", "right", "right")
    ]
    assert (table[table["is_attention"]].groupby("trial").size() % 2 == 0).all()


def test_several_questions_are_several_blocks(tmp_path: Path) -> None:
    config = StudyConfig(questions=[Question(name=name, text="Which?") for name in ("motion", "realism")])
    with closing(begun(tmp_path / "votes.sqlite", config=config)) as store:
        answer_all(store)
        table = votes_table(store)
    assert table.groupby(["rater", "question"]).size().tolist() == [8] * 4
    one = table[table["rater"] == "r001"]["question"]
    assert one.ne(one.shift()).sum() == 2


def test_the_first_answer_counts_and_retries_are_harmless(store: Store) -> None:
    (_, token), *_ = store.links()
    before = rater(store, token)
    assert [store.vote(before, 0, choice, 1) for choice in ("right", "right", "left")] == ["right"] * 3
    assert rater(store, token).trial == 1
    assert len(store.answers()) == 1


@pytest.mark.parametrize(("trial", "choice"), [(1, "left"), (99, "left"), (0, "middle"), (0, "1-0")])
def test_answers_that_fit_no_screen_are_refused(store: Store, trial: int, choice: str) -> None:
    (_, token), *_ = store.links()
    with pytest.raises(RefusedError):
        store.vote(rater(store, token), trial, choice, 1)
    assert not store.answers()


def test_links_and_screens_stay_when_a_study_is_opened_again(tmp_path: Path) -> None:
    with closing(begun(tmp_path / "votes.sqlite")) as store:
        links, screens = store.links(), [store.screen(1, trial) for trial in range(5)]
    with closing(begun(tmp_path / "votes.sqlite", raters=3)) as store:
        assert store.links()[:2] == links and len(store.links()) == 3
        assert [store.screen(1, trial) for trial in range(5)] == screens


def test_settings_and_pairs_are_fixed_once_begun(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    begun(path).close()
    with pytest.raises(StudyError, match="begun with other settings"):
        begun(path, config=StudyConfig(repeat_share=0.2))
    with pytest.raises(StudyError, match="begun with other pairs"):
        begun(path, pairs=5)


def test_withdrawal_deletes_all_that_a_rater_left_behind(store: Store) -> None:
    answer_all(store)
    (_, token), (_, other) = store.links()
    store.note(rater(store, token), 4, "an unmistakable remark", [])
    code = rater(store, token).code
    assert not store.withdraw("AAAA-AAAA-AAAA")
    assert store.withdraw(f" {code.lower()} ")
    assert not store.withdraw(code)
    assert store.rater(token) is None and store.rater(other) is not None
    assert {answer.rater for answer in store.answers()} == {1}
    store.close()
    left = b"".join(path.read_bytes() for path in store.path.parent.glob("votes.sqlite*"))
    assert b"unmistakable" not in left and code.encode() not in left and token.encode() not in left


def test_withdrawal_and_export_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "votes.sqlite"
    with closing(begun(path)) as store:
        answer_all(store)
        code = rater(store, store.links()[0][1]).code
    assert main(["study", "withdraw", code, "--votes", str(path)]) == 0
    assert main(["study", "export", "--votes", str(path), "--out", str(tmp_path / "votes.csv")]) == 0
    assert set(pd.read_csv(tmp_path / "votes.csv")["rater"]) == {"r002"}
    assert main(["study", "withdraw", code, "--votes", str(path)]) == 1
    assert "knows no withdrawal code" in capsys.readouterr().err
    assert main(["study", "export", "--votes", str(tmp_path / "none"), "--out", str(tmp_path / "v.csv")]) == 1
    assert "There is no study" in capsys.readouterr().err


@pytest.mark.fault
def test_two_servers_that_begin_at_once_make_each_link_once(tmp_path: Path) -> None:
    judged = imagined(6)
    with closing(begun(tmp_path / "votes.sqlite", raters=2)) as one, closing(Store(one.path)) as other:
        threads = [threading.Thread(target=store.enrol, args=(40, judged)) for store in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [number for number, _ in one.links()] == list(range(40)) and one.links() == other.links()


@pytest.mark.fault
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ReadOnlyError, match="nothing can be written to"):
        Store(tmp_path / "votes.sqlite", create=True)


@pytest.mark.fault
def test_a_file_that_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "votes.sqlite").write_text("rater,trial,choice\n" * 100)
    with pytest.raises(StudyError, match="is not a study's file of votes"):
        Store(tmp_path / "votes.sqlite")
    sqlite3.connect(tmp_path / "empty.sqlite").close()
    with closing(Store(tmp_path / "empty.sqlite")) as store, pytest.raises(StudyError, match="holds no study yet"):
        export(store, tmp_path / "votes.csv")


def fill(store: Store) -> None:
    """Let the store's file grow no further, as on a full disk."""
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")


@pytest.mark.fault
def test_a_full_disk_keeps_all_votes_and_no_half_one(store: Store) -> None:
    fill(store)
    acknowledged = []
    with pytest.raises(DiskFullError, match="no room left for votes"):
        for _, token in store.links():
            while (now := rater(store, token)).trial is not None:
                store.vote(now, now.trial, "tie", 1)
                acknowledged.append((now.number, now.trial))
                store.note(now, now.trial, "x" * 1000, [])
    kept = [(answer.rater, answer.trial) for answer in store.answers()]
    assert kept[: len(acknowledged)] == acknowledged and len(kept) < 30
    store._db.execute("PRAGMA max_page_count = 100000")
    answer_all(store)  # and goes on where it was
    assert len(store.answers()) == 2 * (3 + 8)


SERVER = """
import sys
from pathlib import Path
from icreward_lib.study.server import serve
from icreward_lib.study.store import Store
serve(Store(Path(sys.argv[1])), [], url="", host="127.0.0.1", port=int(sys.argv[2]), admin_token=None)
"""


@pytest.mark.fault
@pytest.mark.e2e
@pytest.mark.slow
def test_killing_the_server_under_load_loses_no_acknowledged_vote(tmp_path: Path, free_port: int) -> None:
    path = tmp_path / "votes.sqlite"
    with closing(begun(path, raters=6, pairs=60)) as store:
        links = store.links()
    acknowledged: set[tuple[int, int, str]] = set()
    for _ in range(3):
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(path), str(free_port)])
        threads = [
            threading.Thread(target=vote_on, args=(free_port, number, token, acknowledged)) for number, token in links
        ]
        enough = len(acknowledged) + 80
        try:
            listening(free_port, server)
            for thread in threads:
                thread.start()
            while len(acknowledged) < enough and any(thread.is_alive() for thread in threads):
                threads[0].join(0.01)
        finally:
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
        for thread in threads:
            thread.join()
        assert len(acknowledged) >= enough
    with closing(Store(path)) as store:
        stored = {(answer.rater, answer.trial, answer.choice) for answer in store.answers()}
        assert len(stored) == len(store.answers())
        (healthy,) = store._db.execute("PRAGMA integrity_check").fetchone()
    assert healthy == "ok"
    assert acknowledged <= stored


def listening(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server takes connections."""
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError("the server did not start")


def vote_on(port: int, number: int, token: str, acknowledged: set[tuple[int, int, str]]) -> None:
    """Vote on one screen after the other until the server is gone."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/{token}/", timeout=60, trust_env=False) as client:
        try:
            while (state := client.get("state").json())["phase"] == "screen":
                vote = {"trial": state["screen"]["trial"], "choice": "right", "seconds": 1.0}
                stored = client.post("vote", json=vote)
                if stored.status_code == 200:
                    acknowledged.add((number, vote["trial"], stored.json()["choice"]))
        except httpx2.TransportError:
            return
