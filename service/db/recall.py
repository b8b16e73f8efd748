"""Search past corrections for those that may answer a question: SQLite's FTS5 and BM25, in memory.

The index holds nothing that the database does not: it follows the rows as they come and go, and what is deleted there
is in no file of it. Questions about somebody else match as well as other wordings do, so that a correction is found
only where it is about whom or what the question is about (see `lars_agent.english.subjects`). Words tell badly which of
what is known about somebody is asked for; the engine puts what is found in order (see `lars_agent.runtime.relevance`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lars_agent.english.subjects import in_plain_words, other_words, subject_of
from lars_agent.english.wordings import asked_for
from lars_agent.runtime.request import Fit
from lars_agent.secrets import find_secrets
from service.db.asked import COMMON, OPENINGS, Asked
from service.db.feedback import Feedback, to_example
from service.db.records import LEARNED_WEIGHT, FeedbackRecord

CANDIDATES = 50  # of the best by BM25, that are looked at
LONGEST = 2000  # characters of a question, or of a correction, that are searched
MOST_WORDS = 64  # of a question
AT_ONCE = 10_000  # rows that a search waits for; more come in the background
SOME, PAUSE_S = 200, 0.002  # rows that are taken in between two searches there, and time for a search to begin
MOST_GENERAL = 100  # questions about nobody that are compared
QUESTION_WEIGHT, ANSWER_WEIGHT = 1.0, 0.5
SCHEMA = """
CREATE VIRTUAL TABLE corrections USING fts5(
    question, answer, id UNINDEXED, is_correction UNINDEXED, topic UNINDEXED, profile UNINDEXED,
    tokenize = 'porter unicode61 remove_diacritics 2'
)
"""


@dataclass(frozen=True)
class Recalled:
    """A past correction: its question, its answer, and how near it is to the question; higher is nearer.

    `topic` is what it certainly tells, if that is known (see `topic_of`); `fit` tells how it is to the question (see
    `Asked.fit`).
    """

    feedback_id: str
    question: str
    answer: str
    is_correction: bool
    topic: str
    score: float
    fit: Fit = "like"


@dataclass(frozen=True)
class Found:
    """The corrections that may answer a question, the best by their words first; at the end those that perhaps do.

    `is_foreign` tells that the question is about somebody or something else than all that the profile has taught, or
    asks for something else about them. `general` is not None there, and where the question is about nobody: the
    questions about nobody, the newest last, whose replies the profile has corrected; those that are like it twice.
    """

    corrections: Sequence[Recalled] = ()
    is_foreign: bool = False
    general: tuple[str, ...] | None = None


class RecallIndex:
    """What the database's feedback teaches, searchable; without what holds a secret.

    Of several answers to one question, in whatever words, the newest counts, and a correction more than a liked reply.
    """

    def __init__(self, feedback: Feedback) -> None:
        self._feedback = feedback
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.execute(SCHEMA)
        self._newest: dict[tuple[str, str], tuple[int, bool]] = {}  # by profile and question its row, if a correction
        self._heads: defaultdict[str, set[str]] = defaultdict(set)  # of each profile's subjects
        self._general: defaultdict[str, dict[int, str]] = defaultdict(dict)  # of each profile by row
        self._extent = (0, 0)  # of the feedback taken in: rows, and the last one
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def search(self, profile: str, question: str, limit: int) -> Found:
        """Return at most `limit` corrections of the profile that may answer `question`."""
        asked = Asked(question[:LONGEST])
        words = list(asked.words)[:MOST_WORDS]
        if not words:
            return Found()
        with self._lock:
            self._follow()
            match = " OR ".join(f'"{word}"' for plain in words for word in other_words(plain))
            query = (
                "SELECT id, question, answer, is_correction, topic, -bm25(corrections, ?, ?) AS score FROM corrections "
                "WHERE corrections MATCH ? AND profile = ? ORDER BY score DESC, rowid DESC LIMIT ?"
            )
            values = (QUESTION_WEIGHT, ANSWER_WEIGHT, match, profile, CANDIDATES)
            near = [Recalled(*row) for row in self._connection.execute(query, values)]
            heads, taught = self._heads[profile], tuple(self._general[profile].values())[-MOST_GENERAL:]
        sure, perhaps, is_anybodys = list[Recalled](), list[Recalled](), not asked.about_somebody
        for one in near:
            known = Asked(one.question, one.topic)
            if (fit := asked.fit(known, one.answer)) == "perhaps":
                perhaps.append(replace(one, fit=fit))
            elif fit != "no":
                sure.append(replace(one, fit=fit))
                is_anybodys &= fit == "like" and not known.about_somebody
        corrections = [one for one in sure if one.is_correction][:limit]
        is_shown = asked.about.is_shown and bool(asked.about.heads or heads.intersection(words))
        is_foreign = bool(heads) and is_shown and not sure
        is_english = words[0] in OPENINGS or not COMMON.isdisjoint(words)
        is_general = bool(heads) and is_english and (is_anybodys or is_foreign)
        general = (*taught, *(one.question for one in corrections)) if is_general else None
        return Found([*corrections, *(one for one in perhaps if one.is_correction)], is_foreign, general)

    def close(self) -> None:
        """Free the index."""
        self._closing.set()
        with self._lock:
            self._connection.close()

    def _follow(self) -> None:
        """Take in what has come since, and all of it anew where something has been deleted; a lot in the background."""
        if self._missing() <= AT_ONCE:
            self._take_in(AT_ONCE)
        elif self._thread is None:
            self._thread = threading.Thread(target=self._catch_up, name="recall-index", daemon=True)
            self._thread.start()

    def _missing(self) -> int:
        """Return how many rows are not taken in; forget all of them where one has been deleted."""
        count, last = self._feedback.extent()
        known, known_last = self._extent
        if (count, last) == self._extent:
            return 0
        if self._feedback.extent(after=known_last)[0] != count - known:
            with self._connection:
                self._connection.execute("DELETE FROM corrections")
            for kept in (self._newest, self._heads, self._general):
                kept.clear()
            self._extent = (0, 0)
        return count - self._extent[0]

    def _take_in(self, limit: int) -> None:
        count, last = self._extent
        with self._connection:
            for seq, record in self._feedback.after(last, limit):
                self._add(seq, record)
                count, last = count + 1, seq
        self._extent = (count, last)

    def _catch_up(self) -> None:
        """Take in some rows at a time, so that searches find what is there already."""
        while not self._closing.wait(PAUSE_S):
            with self._lock:
                if self._closing.is_set() or not self._missing():
                    self._thread = None
                    return
                self._take_in(SOME)

    def _add(self, seq: int, record: FeedbackRecord) -> None:
        example = to_example(record)
        if example is None or example.messages[-1]["role"] != "user":  # behind a tool's result: it is about that one
            return
        question, answer = example.messages[-1]["content"].strip()[:LONGEST], example.response.strip()[:LONGEST]
        asked = Asked(question)
        key, is_correction = (record.profile, asked_for(asked.text)), example.weight == LEARNED_WEIGHT
        heads, general = subject_of(in_plain_words(f"{question}\n{answer}")).heads, self._general[record.profile]
        self._heads[record.profile] |= heads
        if key in self._newest:
            newest, was_correction = self._newest[key]
            if was_correction and not is_correction:
                return
            self._connection.execute("DELETE FROM corrections WHERE rowid = ?", (newest,))
            general.pop(newest, None)
        self._newest[key] = (seq, is_correction)
        if any(find_secrets([question, answer])):
            return  # recalled, it would stand in prompts, and in replies to whoever asks
        if is_correction and not (asked.about_somebody or asked.about_certain):
            general[seq] = question
        columns = "rowid, question, answer, id, is_correction, topic, profile"
        values = (seq, question, answer, record.id, is_correction, asked.topic, record.profile)
        self._connection.execute(f"INSERT INTO corrections ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
