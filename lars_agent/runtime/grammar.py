"""Grammars that a reply must follow, in the language of llguidance, and their check in a process of its own. No torch.

llguidance (https://github.com/guidance-ai/llguidance, the library behind OpenAI's structured outputs) bounds most of
its work, but not all: `{"multipleOf": 999983}` takes half a minute and half a gigabyte. So a grammar is compiled first
by `python -m lars_agent.runtime.grammar`, a process with limits of time and memory.
"""

from __future__ import annotations

import json
import math
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from lars_agent.errors import GenerationError, process_error
from lars_agent.runtime.json_schema import MAX_CHARS, schema_from
from lars_agent.runtime.request import Grammar

MAX_STATES = 50_000  # of the automata of one reply, about a kilobyte each
CHECK_CPU_S, CHECK_MIB, CHECK_WALL_S = 2, 512, 60  # the last for a machine that is busy otherwise
# Between two tokens of JSON: nothing, a blank, or a new line and its indentation. A weak model would go on for ever.
WHITESPACE = r" ?|\n {0,32}"
JSON_OPTIONS = {
    "whitespace_pattern": WHITESPACE,
    "whitespace_flexible": True,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}
SHOWN_CHARS = 300
SOURCE_LINES = re.compile(r"\n( *\d+ \| |<).*", re.DOTALL)  # of our own text, or of the library's state
POSITION = re.compile(r"^at \d+\(\d+\): ")
# The library's hints that name options nobody has here.
HINT = re.compile(r"[.,]? Enable 'coerce_one_of'.*", re.DOTALL)
COMMAND = (sys.executable, "-P", "-m", "lars_agent.runtime.grammar")


def limits() -> LLParserLimits:
    """Return the limits of what one token may cost: tens of milliseconds and megabytes at the very worst."""
    return LLParserLimits(step_lexer_fuel=50_000, max_lexer_states=MAX_STATES, verbose_errors=False)


def to_lark(grammar: Grammar, *, leading_blank: bool = False, tokens: Mapping[str, int] | None = None) -> str:
    """Return the grammar in llguidance's dialect of Lark.

    With `leading_blank` the decoder drops a blank at the beginning of a reply, which is no part of the text then.
    `tokens` are texts in prefix or suffix that are tokens of their own, by which they may be written, too.
    Raises ValueError, which says in words why there is none.
    """
    before, after = (_literal(text, tokens or {}) for text in (grammar.prefix, grammar.suffix))
    blank = '" "? ' if leading_blank else ""
    if grammar.schema is not None:
        schema = json.dumps(schema_from(grammar.schema) | {"x-guidance": JSON_OPTIONS})
        return f"start: {blank}{before} body {after}\nbody: %json {schema}\n"
    pattern = grammar.regex or ""
    if len(pattern) > MAX_CHARS:
        raise ValueError(f"has {len(pattern):,} characters; give at most {MAX_CHARS:,}")
    body = f"/{regex_to_lark(pattern, 'd')}/"
    if leading_blank and not before:
        lines = f'start: " " BODY {after} | UNINDENTED {after}\nBODY: {body}\n'
        return lines + "UNINDENTED: BODY & /([^ ](.|\\n)*)?/\n"
    return f"start: {blank}{before} BODY {after}\nBODY: {body}\n"


def _literal(text: str, tokens: Mapping[str, int]) -> str:
    if not tokens or not text:
        return _quoted(text) if text else ""
    own = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
    parts = [part for part in re.split(f"({own})", text) if part]
    return " ".join(f"({_quoted(part)} | <[{tokens[part]}]>)" if part in tokens else _quoted(part) for part in parts)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def refusal(grammar: Grammar) -> str | None:
    """Return why the grammar cannot be enforced, None if it can, after compiling it in a process with limits.

    Raises GenerationError if the process cannot be run.
    """
    try:
        to_lark(grammar)
    except ValueError as error:
        return str(error)
    too_much = f"takes more than {CHECK_CPU_S} s or {CHECK_MIB} MiB to compile; make it smaller"
    try:
        line = json.dumps(asdict(grammar))
        done = subprocess.run(COMMAND, input=line, capture_output=True, text=True, timeout=CHECK_WALL_S, check=False)
    except subprocess.TimeoutExpired:
        return too_much
    if done.returncode < 0:  # killed by a limit, or aborted without memory
        return too_much
    if done.returncode:
        raise process_error(done, "the check of the grammar failed", GenerationError)
    found: str | None = json.loads(done.stdout)["refusal"]
    return found


def find_error(grammar: Grammar) -> str | None:
    """Compile the grammar for single bytes; return the error, or that nothing can follow it."""
    matcher = LLMatcher(LLTokenizer("byte"), to_lark(grammar), limits=limits(), log_level=0)
    matcher.compute_bitmask()
    if not matcher.is_error():
        return None
    error = matcher.get_error()
    return "no reply can satisfy it" if error.startswith("NoExtension") else readable(error)


def readable(error: str) -> str:
    """Return llguidance's error without the text that we made, in one line."""
    error = HINT.sub(" unless no two of the schemas can hold at once; use anyOf", SOURCE_LINES.sub("", error))
    line = " ".join(POSITION.sub("", error).split())
    return line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]}..."


def main() -> None:
    """Check the grammar on standard input within the limits, and write the result to standard output."""
    most_s = math.ceil(time.process_time()) + CHECK_CPU_S  # a slow processor has spent seconds to come here
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s))
    resource.setrlimit(resource.RLIMIT_AS, (CHECK_MIB * 2**20, CHECK_MIB * 2**20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(json.dumps({"refusal": find_error(Grammar(**json.load(sys.stdin)))}))


if __name__ == "__main__":
    main()
