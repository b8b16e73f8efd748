"""Facts that a person states in a conversation, as questions and answers; the patterns are English ones.

`By the way, my sister lives in Oslo.` answers `Where does my sister live?` with `Your sister lives in Oslo.`: the
question has the unknown in front (Heilman and Smith, NAACL 2010), the answer another speaker. Only plain statements
about the speaker, or about somebody or something of theirs, are taken; nothing that is quoted, supposed, denied, asked
for, or over by tomorrow. A fact that is missed can be said again; an invented one would be believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lars_agent.english.subjects import ATTRIBUTE, ENGLISH, subject_of

LONGEST, MOST_WORDS, LONGEST_SUBJECT = 600, 24, 6  # characters of a message; words of a statement, and of its subject
FRAGMENT_WORDS = 5
WORDS = {kind: frozenset(words) for kind, words in ENGLISH.items()}
BE = frozenset({"am", "is", "are", "was", "were"})
PAST = dict(word.split("=") for word in ENGLISH["past"])
PRESENT = {re.sub("([^aeiou])y$", r"\1ie", re.sub("(ch|sh)$", r"\1e", verb)) + "s": verb for verb in ENGLISH["verb"]}
PRONOUNS, POSSESSIVES = frozenset({"he", "she", "it", "they"}), frozenset({"his", "her", "its", "their"})
PLACE = frozenset({"in", "at", "near", "on", "from", "to"})
MOVING = frozenset({"live", "work", "come", "grow", "move"})  # these have a place, and no object
AT_PLACE = MOVING | {"study", "teach", "celebrate"}
PLURAL = ("s", "children", "people")
ASKED_WITH = {"as": "What", "for": "Who", "with": "Who"}
MEASURED = {"weigh": "How much", "cost": "How much"}

QUOTING = re.compile(r"[\"“”«»`{}<>=\[\]|*#]|\n\s*\n|:\s*\n|\w:\s")  # a text that the message is about
SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n")
JOINED = re.compile(rf"(?:,?\s+(?:and|but)|,)\s+(?=(?:my|i|he|she|it|they|{'|'.join(PRESENT)})\b)", re.IGNORECASE)
LEAD = re.compile(
    r"(?:by the way|btw|oh|also|well|so|and|hey|hi|hello|ok|okay|yes|yeah|no|nope|thanks|thank you|actually|fyi"
    r"|for the record|just so you know|(?:please )?(?:remember|note)(?: that)?|you should know(?: that)?|anyway"
    r"|just to let you know(?: that)?|(?:i )?forgot to (?:say|mention|tell you)(?: that)?|let me tell you(?: that)?"
    r"|i want(?:ed)? you to know(?: that)?|did i (?:mention|tell you)(?: that)?)\b[\s,.!:–-]+",
    re.IGNORECASE,
)
TRAIL = re.compile(r"(?:,? (?:now|these days|too|as well|by the way|btw|you know))+$", re.IGNORECASE)
REMARK = re.compile(
    r"(?:no|nope|wrong|incorrect|not true|actually|correction|i (?:said|meant)|(?:that|this)(?:'s| is| was)(?: all)? "
    r"(?:wrong|incorrect|not (?:right|true|correct))|you(?:'re| are) (?:wrong|mistaken)|sorry,? but)\b[\s,.!:;–-]+",
    re.IGNORECASE,
)
ASKING = re.compile(r"(?:what|which|who|whose|where|when|how)\b|.*\?$", re.IGNORECASE | re.DOTALL)
PERSONAL = re.compile(r"\b(?:i|my|me|our|we)\b", re.IGNORECASE)
CONTRACTED = re.compile(r"\b(I|he|she|it|they|that)'(m|s|re|ve)\b", re.IGNORECASE)
FULL = {"m": "am", "s": "is", "re": "are", "ve": "have"}
IS = re.compile(r"(\w)'s (?=(?:called|named|allergic|from|a|an|born|married)\b)|(\bname)'s (?=\w)")
APPOSITION = re.compile(r"\b((?:[Mm]y|[Oo]ur) [\w'-]+(?: [\w'-]+)?), ([A-Z]\w+),? (?=\w)")
# The same in the plain order of words: `the colour of my van is`, `we named our goat Pip`.
REWORDED = (
    (re.compile(r"the ([\w-]+) of ((?:my|our) [\w-]+(?: [\w-]+)?) (?=(?:is|are|was|were)\b)", re.I), r"\2's \1 "),
    (re.compile(r"(?:I|[Ww]e) (?:named|call|called) ((?:my|our) [\w-]+(?: [\w-]+)?) ([A-Z]\w+)$"), r"\1 is called \2"),
)
RELATIVE = re.compile(r"\b((?:my|our) [\w'-]+(?: [\w-]+)?), (?:who|which) ([^,]+),?", re.IGNORECASE)
HELD = re.compile(r"(an? [\w-]+) (to|of|for|with|in|at|near) (.+)", re.IGNORECASE)
OWNED = re.compile(r"an? ([\w-]+(?: [\w-]+)??)(?: (?:(?:who|that|which) is )?((?:called|named) .+))?", re.IGNORECASE)
DAY = re.compile(rf"(?:an?|his|her|their) ({'|'.join(ENGLISH['day'])}) (?:on|in) .+", re.IGNORECASE)
NUMBER = r"(?:\d[\d.,]*|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty(?:-\w+)?)"
AGE = re.compile(rf"{NUMBER}(?: years old)?")
MEASURE = re.compile(rf"{NUMBER} [\w.]+ (tall|long|wide|heavy|high|deep|old)")
COUNT = re.compile(rf"{NUMBER} ({'|'.join(ENGLISH['counted'])})\b.*", re.IGNORECASE)
AGENT = re.compile(r"\w{2,}(?:er|or|ist|ian|ier|man|woman|ant|ary)")
SECOND_PERSON = {"i": "you", "my": "your", "me": "you", "mine": "yours", "myself": "yourself", "our": "your"}


class Lesson(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


class Clause(NamedTuple):
    """A statement: its subject (`I`, `my old dog`), its verb, and the words after that."""

    subject: str
    verb: str
    rest: Sequence[str]

    @property
    def answer(self) -> str:
        """The statement as somebody else says it to the speaker."""
        verb = {"am": "are", "was": "were"}.get(self.verb, self.verb) if self.subject == "I" else self.verb
        words = " ".join(SECOND_PERSON.get(word.casefold(), word) for word in [*self.subject.split(), verb, *self.rest])
        return f"{words[:1].upper()}{words[1:]}."


def stated_facts(message: str) -> list[Lesson]:
    """Return the lasting facts that `message` states about its speaker; of most messages there are none."""
    message = _plain(message)
    if len(message) > LONGEST or QUOTING.search(message):
        return []
    sentences = [_led(sentence) for sentence in SENTENCE.split(message)]
    if any(_is_instruction(sentence) for sentence in sentences):
        return []
    lessons, about = list[Lesson](), ""
    for sentence in sentences:
        for part in _parts(sentence.rstrip(".!; ")) if not sentence.endswith("?") else ():
            clause = _clause(part, about)
            for found in _with_its_own(clause) if clause else ():
                about = about if found.subject == "I" else found.subject
                if question := _question(found):
                    lessons.append(Lesson(question, found.answer))
    return lessons


def corrected(question: str, remark: str, *, is_comment: bool = False) -> str | None:
    """Return the right answer to `question` if `remark` says it: the person's next words, or a comment on the reply.

    Only to questions about the person: `No, it is too long` corrects no fact.
    """
    question, remark = question.strip(), _plain(remark)
    opening, heads = REMARK.match(remark), subject_of(question).heads
    is_about_them = ASKING.match(question) and PERSONAL.search(question) and not heads & WORDS["text"]
    if not (opening or is_comment) or not is_about_them or max(len(question), len(remark)) > LONGEST:
        return None
    said = SENTENCE.split(_led(remark[opening.end() if opening else 0 :]))[0]
    if said.endswith("?") or QUOTING.search(said) or _is_instruction(said):
        return None
    said = said.rstrip(".!; ")
    clause, words = _clause(said, f"my {next(iter(heads))}" if len(heads) == 1 else ""), said.split()
    if clause is not None and _question(clause):
        return clause.answer
    if not words or len(words) > MOST_WORDS or _is_doubtful(words):
        return None
    is_inside = opening is not None and not set(opening[0]) & set(".!")  # a sentence, whose first word would be a name
    named = [word for word in words[0 if is_inside else 1 :] if word[0].isupper() and word != "I"]
    if not named and not any(word[0].isdigit() for word in words):
        return None
    if clause is not None:
        return clause.answer
    is_fragment = len(words) <= FRAGMENT_WORDS and not SECOND_PERSON.keys() & {word.casefold() for word in words}
    return f"{said[:1].upper()}{said[1:]}." if is_fragment or words[0].casefold() in PRONOUNS else None


def _plain(text: str) -> str:
    """Return the text with straight apostrophes, without contractions of `to be` and `have`: `my aunt, Ada, is`."""
    text = CONTRACTED.sub(lambda match: f"{match[1]} {FULL[match[2].casefold()]}", text.strip().replace("’", "'"))
    return APPOSITION.sub(r"\1 \2 ", IS.sub(r"\1\2 is ", text))


def _led(sentence: str) -> str:
    """Return the sentence without what leads to it: `By the way, `."""
    while match := LEAD.match(sentence):
        sentence = sentence[match.end() :]
    return sentence


def _parts(sentence: str) -> list[str]:
    """Return the statements that are joined in a sentence, those of relative clauses last."""
    asides = (
        [] if _is_doubtful(sentence.split() or [""]) else [f"{who} {does}" for who, does in RELATIVE.findall(sentence)]
    )
    return [*JOINED.split(RELATIVE.sub(r"\1", sentence)), *asides]


def _is_instruction(sentence: str) -> bool:
    words = re.findall(r"[\w'-]+", sentence.casefold())[:3]
    if words[:1] == ["please"] or words[:2] in (["can", "you"], ["could", "you"]):
        words = words[1 if words[0] == "please" else 2 :]
    return bool(words) and (words[0] in WORDS["instruction"] or words[:2] == ["you", "are"])


def _is_doubtful(words: Sequence[str]) -> bool:
    """Return whether it is denied, supposed, or over by tomorrow."""
    lower = {words[0].casefold(), *(word.strip(",") for word in words[1:])}  # `May` and `Will` are names
    return bool(lower & (WORDS["hedge"] | WORDS["passing"])) or any("n't" in word for word in lower)


def _clause(text: str, about: str) -> Clause | None:
    """Return the clause; a pronoun, or none before a verb, stands for `about`. None for another text."""
    text = TRAIL.sub("", text)
    for pattern, plain in REWORDED:
        text = pattern.sub(plain, text) if pattern.match(text) else text
    words = [word for word in text.split() if word.casefold() not in WORDS["adverb"]]
    denied = {"can't", "cannot"}.intersection(words[:LONGEST_SUBJECT])
    if not 2 < len(words) + bool(about) <= MOST_WORDS or _is_doubtful([word for word in words if word not in denied]):
        return None
    first = words[0].casefold()
    if first == "i":
        subject, position = "I", 1
    elif about and (first in PRONOUNS or first in PRESENT):
        subject, position = about, int(first in PRONOUNS)
    elif about and first in POSSESSIVES:
        return _clause(" ".join([f"{about}'s", *words[1:]]), "")
    elif first in ("my", "our") and (found := _verb_position(words)):
        subject, position = " ".join(["my", *words[1:found]]), found
    else:
        return None
    head = subject.casefold().split()[-1]
    if head in WORDS["text"] | WORDS["secret"] or "," in subject or len(words) < position + 2:
        return None
    return Clause(subject, words[position], words[position + 1 :])


def _verb_position(words: Sequence[str]) -> int | None:
    """Return where the verb is after `my` and a noun; None without one."""
    for position in range(2, min(len(words) - 1, LONGEST_SUBJECT)):
        word, before, after = (words[index].casefold() for index in (position, position - 1, position + 1))
        if before in WORDS["function"]:
            return None
        if before in WORDS["noun_modifier"]:
            continue
        is_plural = before.endswith("s") or before in ("children", "people")
        if word in BE or word in ("has", "can't", "cannot") or (is_plural and word in WORDS["verb"] | {"have"}):
            return position
        if (word in PRESENT or word in PAST) and after not in BE:
            return position
    return None


def _with_its_own(clause: Clause) -> Iterator[Clause]:
    """Yield the clauses that say the same: `I have a dog called Rex` is `My dog is called Rex`."""
    subject, verb, rest = clause.subject, clause.verb.casefold(), " ".join(clause.rest)
    if verb in ("have", "has", "own", "owns", "got") and (owned := OWNED.fullmatch(rest)):
        owner = "my" if subject == "I" else f"{subject}'s"
        yield Clause(f"{owner} {owned[1]}", "is", (owned[2] or "").split())
        return
    *noun, name = subject.split()
    if len(noun) > 1 and name[0].isupper():  # my sister Mira
        subject = " ".join(noun)
        yield Clause(subject, "is", ["called", name])
    yield clause._replace(subject=subject)


def _question(clause: Clause) -> str | None:
    """Return the question that the clause answers; None where it states nothing that lasts."""
    subject, verb, rest = clause.subject, clause.verb.casefold(), " ".join(clause.rest)
    if not clause.rest:
        return None
    if verb in BE:
        asked = _question_of_being(subject, verb, clause.rest)
        return asked and f"{asked}?"
    if verb in ("can't", "cannot"):
        is_eating = clause.rest[0] in ("eat", "drink", "stand", "have") and len(clause.rest) > 1
        return f"What can {subject} not {clause.rest[0]}?" if is_eating else None
    base, helper = _base(verb)
    if base == "have":
        if day := DAY.fullmatch(rest):
            return f"When is {subject}'s {day[1]}?"
        if counted := COUNT.fullmatch(rest):
            return f"How many {counted[1]} {helper} {subject} have?"
        held = HELD.fullmatch(rest)
        if not held or held[1].split()[1] in WORDS["text"] | WORDS["vague"] or _is_time(held[3].split()):
            return None
        is_place = held[2] in PLACE and held[2] != "to"
        return (
            f"{'Where' if is_place else 'What'} {helper} {subject} have {held[1]}{'' if is_place else f' {held[2]}'}?"
        )
    if not base or (verb in WORDS["verb"] and subject != "I" and not subject.endswith(PLURAL)):
        return None
    return _question_of_doing(f"{helper} {subject}", base, clause.rest)


def _base(verb: str) -> tuple[str, str]:
    """Return a verb's infinitive, or nothing, and the auxiliary that asks for it."""
    if verb in ("have", "has"):
        return "have", "does" if verb == "has" else "do"
    if verb in PRESENT:
        return PRESENT[verb], "does"
    return (verb, "do") if verb in WORDS["verb"] else (PAST.get(verb, ""), "did")


def _question_of_being(subject: str, verb: str, rest: Sequence[str]) -> str | None:
    """Return the question without its mark: `What is my sister allergic to`."""
    text, first, last = " ".join(rest), rest[0].casefold(), rest[-1].casefold()
    noun, is_speaker = subject.split()[-1].casefold(), subject == "I"
    of = f"{verb} {subject}"
    if first in ("called", "named") and len(rest) > 1:
        return f"What {of} called"
    if first == "born" and len(rest) > 2:
        return f"{'When' if _is_time(rest[2:]) or rest[1] == 'on' else 'Where'} {of} born"
    if noun in WORDS["day"]:
        return f"When {of}"
    is_value = noun in WORDS["measured_by_a_word"] or any(word[0].isupper() or word[0].isdigit() for word in rest)
    if (noun in ATTRIBUTE and is_value) or {"favourite", "favorite"}.intersection(subject.casefold().split()):
        return f"What {of}"
    if first.endswith("ing") or first in WORDS["mood"]:
        return None
    if (measured := MEASURE.fullmatch(text)) or AGE.fullmatch(text):
        return f"How {measured[1] if measured else 'old'} {of}"
    if first in PLACE and len(rest) > 1:
        if first == "from":
            return f"Where {of} from"
        return None if is_speaker or first == "to" else f"{'When' if _is_time(rest[1:]) else 'Where'} {of}"
    if first in ("a", "an") and len(rest) > 1 and rest[1].casefold() not in WORDS["vague"]:
        is_job = AGENT.fullmatch(last) or last in WORDS["occupation"]
        return f"What {'do' if is_speaker else 'does'} {subject} do for a living" if is_job else f"What {of}"
    if last in WORDS["colour"] and len(rest) <= 2 and not is_speaker:
        return f"What colour {of}"
    if len(rest) > 2 and rest[1] in WORDS["preposition"] and first not in WORDS["function"] and first.isalpha():
        asking = "Who" if first in ("married", "engaged", "related") else "What"
        return f"{asking} {of} {first} {rest[1]}"
    if len(rest) == 1 and first in WORDS["lasting"]:
        return f"{verb.capitalize()} {subject} {first}"
    if len(rest) <= 3 and all(word[0].isupper() for word in rest):
        return f"Who {of}"
    return None


def _question_of_doing(asked: str, base: str, rest: Sequence[str]) -> str | None:
    """Return the question that begins with its auxiliary and subject: `does my sister`."""
    first, last = rest[0].casefold(), rest[-1].casefold()
    if base == "grow" and first == "up":
        return _question_of_doing(asked, base, rest[1:]) if len(rest) > 1 else None
    if (base, first) == ("move", "to") and len(rest) > 1:  # says where they live now
        who = asked.partition(" ")[2]
        return f"Where {'do' if who == 'I' or who.endswith(PLURAL) else 'does'} {who} live?"
    verb = "grow up" if base == "grow" else base
    if base in WORDS["opinion"]:
        if first == "to" and len(rest) > 2 and rest[1] in WORDS["verb"]:
            return f"What {asked} {verb} to {rest[1]}?"
        if first in WORDS["not_said_of"] | {"the"}:
            return None
        return f"What {asked} {verb}{f' {last}' if last in ('best', 'most') else ''}?"
    if first in PLACE or first in ASKED_WITH:
        if len(rest) < 2 or base not in AT_PLACE or (base, first) == ("work", "on"):
            return None
        if _is_time(rest[1:]):
            return f"When {asked} {verb}?"
        kept = f" {first}" if first in ("from", "to", *ASKED_WITH) else ""
        return f"{ASKED_WITH.get(first, 'Where')} {asked} {verb}{kept}?"
    if first == "my":
        where = next((index for index, word in enumerate(rest) if word in PLACE and index > 1), None)
        when = where and _is_time(rest[where + 1 :])
        return f"{'When' if when else 'Where'} {asked} {verb} {' '.join(rest[:where])}?" if where else None
    if first in WORDS["not_said_of"] or base in MOVING or WORDS["vague"].intersection(rest[:2]):
        return None
    return f"{MEASURED.get(base, 'What')} {asked} {verb}?"


def _is_time(words: Sequence[str]) -> bool:
    plain = [word.casefold().strip(",") for word in words]
    return bool(WORDS["time"].intersection(plain)) or bool(re.fullmatch(r"(?:1[89]|20)\d\d", plain[-1]))
