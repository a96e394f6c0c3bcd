"""From the server's votes to the analysis: one table all the way."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from support.standins_study import imagined

from icreward_lib.study.analysis import counted, summarise
from icreward_lib.study.preferences import from_votes
from icreward_lib.study.protocol import StudyConfig
from icreward_lib.study.store import Store, export
from icreward_lib.study.votes import Exclusion, read_votes

ARMS = ("arm0", "arm1")


@pytest.mark.e2e
def test_what_the_server_exports_is_what_the_analysis_reads(tmp_path: Path) -> None:
    config = StudyConfig(exclusion=Exclusion(min_attention_passed=0.9, min_median_seconds=2.0))
    judged = imagined(12)
    with closing(Store(tmp_path / "votes.sqlite", create=True)) as store:
        store.begin(config, judged)
        store.enrol(4, judged)
        for number, token in store.links():
            rater = store.rater(token)
            assert rater is not None
            store.consent(rater.number)
            while (now := store.rater(token)) is not None and now.trial is not None:
                screen = store.screen(now.number, now.trial)
                known = screen.kind in ("practice", "attention")
                favourite = "left" if screen.clips[0].arm == "arm0" else "right"
                # The last rater is in a hurry, and looks at nothing.
                choice = "left" if number == 3 else screen.answer if known else favourite
                store.vote(now, now.trial, choice, 0.5 if number == 3 else 4.0)
                if not known:
                    store.note(now, now.trial, "the subject melts on the other side", ["subject", "motion"])
        assert export(store, tmp_path / "votes.csv") > 4 * 12
    rule = Exclusion.beside(tmp_path / "votes.csv")
    assert rule == config.exclusion
    votes = read_votes(tmp_path / "votes.csv", samples=[item.sample for item in judged])
    kept, left_out = counted(votes, ARMS, rule)
    assert left_out["rater"].tolist() == ["r004"] and "seconds" in left_out["why"][0]
    summary = summarise(votes, ARMS, seed=0, rule=rule)
    assert (summary["raters"], summary["votes"], summary["source"]) == (3, 36, "people")
    assert summary["win_rate"]["mean"] == 1.0 and summary["consistency"]["mean"] == 1.0
    tags = {row["tag"]: row["trials"] for row in summary["tags"]}
    assert tags == {"subject": 36, "motion": 36}
    table = from_votes(kept)
    assert len(table) == 12 and table[["votes1", "votes2", "ties"]].to_numpy().sum() == 36
