"""The routes: what they give, what they refuse, and that no answer tells where a clip came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from support import ROOT
from support.standins_study import ARMS, make_pairs

from icreward_lib.cli.main import main
from icreward_lib.study import server
from icreward_lib.study.pairs import read_pairs
from icreward_lib.study.protocol import StudyConfig, StudyError, items
from icreward_lib.study.server import ADMIN_TOKEN, Study, admin_token, media_files
from icreward_lib.study.store import Store

SECRET = "only-for-the-lab-0123"


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pairs(tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(pairs_file: Path, tmp_path: Path) -> Iterator[Study]:
    pairs = read_pairs(pairs_file)
    with closing(Store(tmp_path / "votes.sqlite", create=True)) as store:
        judged = items(StudyConfig(), pairs)
        store.begin(StudyConfig(), judged)
        store.enrol(2, judged)
        yield Study(store, media_files(pairs), SECRET)


@pytest.fixture
def client(study: Study) -> TestClient:
    return TestClient(study.app(("testserver",)), raise_server_exceptions=False)


@pytest.fixture
def token(study: Study) -> str:
    return study.store.links()[0][1]


def post(client: TestClient, path: str, **body: Any) -> Any:
    return client.post(path, json=body)


def begin(client: TestClient, token: str) -> dict[str, Any]:
    state = post(client, f"/api/{token}/consent").json()
    assert state["phase"] == "screen"
    return dict(state)


def test_a_rater_goes_from_consent_to_thanks_and_comes_back_by_the_link(client: TestClient, token: str) -> None:
    state = client.get(f"/api/{token}/state").json()
    assert state["phase"] == "consent" and state["minutes"] >= 1
    state = begin(client, token)
    practice, counted = 0, 0
    while state["phase"] == "screen":
        assert state == client.get(f"/api/{token}/state").json()
        trial = state["screen"]["trial"]
        reply = post(client, f"/api/{token}/vote", trial=trial, choice="left", seconds=2.0).json()
        assert reply["choice"] == "left"
        assert ("right" in reply) == state["practice"]
        if state["practice"]:
            practice += 1
        else:
            assert state["done"] == counted
            counted += 1
            assert post(client, f"/api/{token}/note", trial=trial, feedback="so", tags=["motion"]).status_code == 200
        state = client.get(f"/api/{token}/state").json()
    assert state["phase"] == "done" and len(state["code"]) == 14
    assert (practice, counted) == (3, 3 + 1 + 1)


def test_double_clicks_and_retries_store_one_vote(client: TestClient, study: Study, token: str) -> None:
    begin(client, token)
    replies = [
        post(client, f"/api/{token}/vote", trial=0, choice=c, seconds=1.0).json() for c in ("tie", "tie", "left")
    ]
    assert {reply["choice"] for reply in replies} == {"tie"}
    assert len(study.store.answers()) == 1


def test_no_response_names_an_arm_or_the_kind_of_a_screen(client: TestClient, study: Study, token: str) -> None:
    seen = [client.get(path) for path in (f"/r/{token}", "/study.css", "/study.js", "/", "/nowhere", "/media/x.mp4")]
    state = begin(client, token)
    while state["phase"] == "screen":
        screen = state["screen"]
        files = [screen["reference"], *(path for clip in screen["clips"] for path in clip.values())]
        seen += [client.get(path) for path in files]
        seen.append(post(client, f"/api/{token}/vote", trial=screen["trial"], choice="tie", seconds=1.0))
        seen.append(post(client, f"/api/{token}/note", trial=screen["trial"], feedback="", tags=[]))
        seen.append(client.get(f"/api/{token}/state"))
        state = seen[-1].json()
    assert sum(response.status_code == 200 for response in seen) > 50
    telling = (
        *ARMS,
        "arm_",
        "attention",
        '"repeat',
        "is_repeat",
        "corrupted",
        "p0001",
        "s0/",
        str(study.store.path.parent),
    )
    for response in seen:
        headers = json.dumps(dict(response.headers))
        named = [word for word in telling if word.encode() in response.content or word in headers]
        assert not named, response.url


def test_every_response_carries_the_security_headers(client: TestClient, token: str) -> None:
    for path in (f"/r/{token}", "/study.js", f"/api/{token}/state", "/nowhere", "/admin/votes.csv", "/media/x.mp4"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers and "server" not in headers
    assert client.get(f"/api/{token}/state").headers["cache-control"] == "no-store"


def test_the_published_load_test_lost_no_vote() -> None:
    measured = json.loads((ROOT / "benchmarks" / "study.json").read_text(encoding="utf-8"))
    assert measured["votes_per_second"] >= 200 and measured["p99_ms"] < 100
    assert measured["kills"] > 0 and measured["acknowledged"] <= measured["stored"]


def test_the_page_asks_nothing_of_others() -> None:
    for path in server.PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "url(" not in text and "style=" not in text


def test_a_video_seeks(client: TestClient, study: Study) -> None:
    name = next(name for name in study.media if name.endswith(".webm"))
    whole = client.get(f"/media/{name}")
    assert whole.status_code == 200 and whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-type"] == "video/webm"
    part = client.get(f"/media/{name}", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole.content[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert client.get(f"/media/{name}", headers={"Range": "bytes=-5"}).content == whole.content[-5:]
    assert client.get(f"/media/{name}", headers={"Range": "bytes=99999999-"}).status_code == 416


@pytest.mark.fault
@pytest.mark.parametrize(
    "path",
    [
        "/media/../pairs.csv", "/media/..%2Fpairs.csv", "/media/%2e%2e%2fpairs.csv", "/media/....//pairs.csv",
        "/media/%2Fetc%2Fpasswd", "/media/", "/media", "/study.js/../server.py", "/..%2Fserver.py", "/votes.sqlite",
        "/api/state", "/admin", "/media/..%5Cpairs.csv", "/media/%00",
    ],
)  # fmt: skip
def test_nothing_but_the_media_of_the_pairs_is_given_out(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (404, 405)
    assert "arm" not in response.text


@pytest.mark.fault
def test_foreign_tokens_are_refused(client: TestClient, study: Study, token: str) -> None:
    begin(client, token)
    for wrong in ("x", token[:-1], token + "x", "%27%20OR%201=1", "A" * 5000):
        for call in (
            client.get(f"/api/{wrong}/state"),
            post(client, f"/api/{wrong}/vote", trial=0, choice="left", seconds=1.0),
        ):
            assert call.status_code == 404 and call.json()["error"].startswith("This link is not valid")
    assert not study.store.answers()
    other = study.store.links()[1][1]
    assert post(client, f"/api/{other}/vote", trial=0, choice="left", seconds=1.0).status_code == 409  # no consent
    post(client, f"/api/{token}/vote", trial=0, choice="left", seconds=1.0)
    begin(client, other)
    assert client.get(f"/api/{other}/state").json()["done"] == 0
    assert post(client, f"/api/{other}/note", trial=0, feedback="mine?", tags=[]).status_code == 409


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("vote", {"trial": 0, "choice": "left" * 9, "seconds": 1.0}, 400),
        ("vote", {"trial": "0", "choice": "left", "seconds": 1.0}, 400),
        ("vote", {"trial": -1, "choice": "left", "seconds": 1.0}, 400),
        ("vote", {"trial": 10**30, "choice": "left", "seconds": 1.0}, 400),
        ("vote", {"trial": 0, "choice": "left", "seconds": 1e300}, 400),
        ("vote", {"trial": 0, "choice": "left", "seconds": 1.0, "rater": 1}, 400),
        ("vote", {"trial": 0, "choice": "middle", "seconds": 1.0}, 409),
        ("vote", {"trial": 3, "choice": "left", "seconds": 1.0}, 409),
        ("vote", {"trial": 0, "choice": "x" * 9000, "seconds": 1.0}, 413),
        ("note", {"trial": 0, "feedback": "x" * 1001}, 400),
        ("note", {"trial": 0, "feedback": "x" * 10_000}, 413),
        ("note", {"trial": 0, "tags": ["taste"]}, 400),
        ("note", {"trial": 0, "tags": ["motion"] * 13}, 400),
        ("note", {"trial": 0, "feedback": "too early"}, 409),
        ("vote", [], 400),
    ],
)
def test_fields_that_do_not_fit_are_refused_in_a_sentence(
    client: TestClient, study: Study, token: str, path: str, body: Any, status: int
) -> None:
    begin(client, token)
    response = client.post(f"/api/{token}/{path}", json=body)
    assert response.status_code == status
    assert response.json()["error"].endswith(".")
    assert not study.store.answers()


@pytest.mark.fault
def test_requests_of_other_sites_are_refused(client: TestClient, study: Study, token: str) -> None:
    form = client.post(f"/api/{token}/vote", data={"trial": "0"})
    assert form.status_code == 415
    assert (
        client.post(f"/api/{token}/vote", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    )
    local = TestClient(study.app(server.LOCAL), base_url="http://rebound.example")
    assert local.get(f"/api/{token}/state").status_code == 400


@pytest.mark.fault
def test_a_full_disk_is_said_and_the_same_vote_can_be_sent_again(client: TestClient, study: Study, token: str) -> None:
    begin(client, token)
    pages = study.store._db.execute("PRAGMA page_count").fetchone()[0]
    study.store._db.execute(f"PRAGMA max_page_count = {pages}")
    answered = 0
    while True:
        vote = {"trial": answered, "choice": "left", "seconds": 1.0}
        reply = client.post(f"/api/{token}/vote", json=vote)
        if reply.status_code == 200:
            reply = post(client, f"/api/{token}/note", trial=answered, feedback="x" * 1000, tags=[])
            answered += 1
        if reply.status_code != 200:
            break
    assert reply.status_code == 507
    assert reply.json()["error"] == "There is no room left to store answers. Nothing was lost; please try again later."
    study.store._db.execute("PRAGMA max_page_count = 100000")
    assert client.post(f"/api/{token}/vote", json=vote).json()["choice"] == "left"
    assert client.get(f"/api/{token}/state").status_code == 200


def test_withdrawal_ends_the_link(client: TestClient, study: Study, token: str) -> None:
    state = begin(client, token)
    post(client, f"/api/{token}/vote", trial=0, choice="left", seconds=1.0)
    assert post(client, "/api/withdraw", code="AAAA-BBBB-CCCC").status_code == 404
    assert post(client, "/api/withdraw", code=state["code"]).json() == {"deleted": True}
    assert not study.store.answers()
    assert client.get(f"/api/{token}/state").status_code == 404


def test_votes_are_listed_for_the_admin_only(client: TestClient, study: Study, token: str) -> None:
    begin(client, token)
    for trial in range(4):
        post(client, f"/api/{token}/vote", trial=trial, choice="left", seconds=1.0)
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {token}"}):
        assert client.get("/admin/votes.csv", headers=headers).status_code == 403
    listed = client.get("/admin/votes.csv", headers={"Authorization": f"Bearer {SECRET}"})
    assert listed.status_code == 200 and listed.text.startswith("rater,trial,pair,sample,arm_left")
    study.admin_token = None
    assert client.get("/admin/votes.csv", headers={"Authorization": "Bearer "}).status_code == 403


def test_other_hosts_need_an_admin_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADMIN_TOKEN, raising=False)
    assert admin_token("127.0.0.1") is admin_token("localhost") is admin_token("::1") is None
    for host in ("0.0.0.0", "192.168.1.2", "::", "study.example.org"):
        with pytest.raises(StudyError, match="can be reached from elsewhere"):
            admin_token(host)
    monkeypatch.setenv(ADMIN_TOKEN, "short")
    with pytest.raises(StudyError, match="16 letters"):
        admin_token("127.0.0.1")
    monkeypatch.setenv(ADMIN_TOKEN, SECRET)
    assert admin_token("0.0.0.0") == SECRET


def test_the_command_line_prints_links_and_serves(
    pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: dict[str, Any] = {}
    monkeypatch.setattr(server.uvicorn, "run", lambda app, **options: served.update(options))
    monkeypatch.delenv(ADMIN_TOKEN, raising=False)
    command = ["study", "serve", "--pairs", str(pairs_file), "--votes", str(tmp_path / "v.sqlite"), "--raters", "3"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert first.count("http://127.0.0.1:8000/r/") == 3 and served["host"] == "127.0.0.1"
    assert served["access_log"] is False
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert main([*command, "--host", "::1"]) == 0
    assert "http://[::1]:8000/r/" in capsys.readouterr().out
    assert main([*command, "--host", "0.0.0.0"]) == 1
    assert "can be reached from elsewhere" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--url", "study.example.org"])
    assert "does not begin with https://" in capsys.readouterr().err
    (tmp_path / "study.yaml").write_text("seed: 5\n")
    assert main([*command, "--config", str(tmp_path / "study.yaml")]) == 1
    assert "was begun with other settings" in capsys.readouterr().err
