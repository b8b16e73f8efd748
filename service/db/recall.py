"""Search past corrections for those that answer a question: SQLite's FTS5, ranked by BM25, in memory.

The index holds nothing that the database does not: it follows the rows as they come and go, and what is deleted there
is in no file of it. Questions about somebody else match as well as other wordings do, so that a correction is found
only where it is about whom or what the question is about (see `lars_agent.questions`).
"""

from __future__ import annotations

import re
import sqlite3
import threading
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from itertools import islice
from typing import Literal

from lars_agent.questions import Subject, subject_of
from service.db.feedback import Feedback
from service.db.records import FeedbackRecord

CANDIDATES = 50  # of the best by BM25, that are looked at
LONGEST = 2000  # characters of a question, or of a correction, that are searched
MOST_WORDS = 64  # of a question
LEAST_SHARE = 0.5  # of a question's own words that a correction has to hold where nothing shows what it is about
QUESTION_WEIGHT, ANSWER_WEIGHT = 1.0, 0.5
WORDS = re.compile(r"\w+")
SCHEMA = """
CREATE VIRTUAL TABLE corrections USING fts5(
    question, answer, id UNINDEXED, profile UNINDEXED, tokenize = 'porter unicode61 remove_diacritics 2'
)
"""
# Words that most questions share, and that tell none from another.
COMMON = frozenset((files("service.db") / "common_words.txt").read_text(encoding="utf-8").split())


@dataclass(frozen=True)
class Recalled:
    """A past correction: its question, its answer, and how well it fits; higher is better.

    `is_same` tells that it answers the question, rather than one like it.
    """

    feedback_id: str
    question: str
    answer: str
    score: float
    is_same: bool = False


class RecallIndex:
    """The corrections of the database, searchable; of several answers to one question the newest counts."""

    def __init__(self, feedback: Feedback) -> None:
        self._feedback = feedback
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.execute(SCHEMA)
        self._newest: dict[tuple[str, str], int] = {}  # the row of each profile's question
        self._extent = (0, 0)  # of the feedback taken in: rows, and the last one

    def search(self, profile: str, question: str, limit: int) -> list[Recalled]:
        """Return at most `limit` corrections of the profile that answer `question`, the best first."""
        words = list(dict.fromkeys(word.casefold() for word in WORDS.findall(question[:LONGEST])))[:MOST_WORDS]
        if not words or limit < 1:
            return []
        with self._lock:
            self._follow()
            match = " OR ".join(f'"{word}"' for word in words)
            query = (
                "SELECT id, question, answer, -bm25(corrections, ?, ?) AS score FROM corrections "
                "WHERE corrections MATCH ? AND profile = ? ORDER BY score DESC, rowid DESC LIMIT ?"
            )
            values = (QUESTION_WEIGHT, ANSWER_WEIGHT, match, profile, CANDIDATES)
            found = [Recalled(*row) for row in self._connection.execute(query, values)]
        fit = partial(_fit, subject_of(question), {word.casefold() for word in WORDS.findall(question)} - COMMON)
        fitting = (replace(one, is_same=how == "same") for one in found if (how := fit(one)) != "no")
        return list(islice(fitting, limit))

    def close(self) -> None:
        """Free the index."""
        with self._lock:
            self._connection.close()

    def _follow(self) -> None:
        """Take in what has come since, and all of it anew where something has been deleted."""
        extent = self._feedback.extent()
        if extent == self._extent:
            return
        count, last = self._extent
        some_gone = self._feedback.extent(after=last)[0] != extent[0] - count
        with self._connection:
            if some_gone:
                self._connection.execute("DELETE FROM corrections")
                self._newest.clear()
                last = 0
            for seq, record in self._feedback.corrections(after=last):
                if seq <= extent[1]:
                    self._add(seq, record)
        self._extent = extent

    def _add(self, seq: int, record: FeedbackRecord) -> None:
        question, answer = record.messages[-1]["content"].strip()[:LONGEST], (record.correction or "").strip()[:LONGEST]
        key = (record.profile, question)
        if key in self._newest:
            self._connection.execute("DELETE FROM corrections WHERE rowid = ?", (self._newest[key],))
        self._newest[key] = seq
        values = (seq, question, answer, record.id, record.profile)
        self._connection.execute(
            "INSERT INTO corrections (rowid, question, answer, id, profile) VALUES (?, ?, ?, ?, ?)", values
        )


def _fit(asked: Subject, own: set[str], known: Recalled) -> Literal["same", "like", "no"]:
    """Return whether a correction is about what is asked about, or is only like the question in its `own` words."""
    text = f"{known.question}\n{known.answer}"
    words = {word.casefold() for word in WORDS.findall(text)}
    if not asked.named <= words:
        return "no"
    if asked.owned:
        return "same" if asked.shares(subject_of(text)) else "no"
    if not own or len(own & words) < LEAST_SHARE * len(own):
        return "no"
    return "same" if own <= words else "like"
