"""Write lars_agent/data/secret_rules.json from the rules that come with the package kingfisher-secret-scanner.

    pip install kingfisher-secret-scanner==1.5.0
    python -m docs.generate_secret_rules > lars_agent/data/secret_rules.json

The package is needed for this alone: it takes 45 MB, compiles all rules at each start and holds code that asks vendors
over the network if a secret is valid. The rules are those of Betterleaks, which succeeds gitleaks, and a few of Veles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import distribution
from typing import Any

import re2
from kingfisher_sdk import Rules  # type: ignore[import-not-found, unused-ignore]

PACKAGE = "kingfisher-secret-scanner"
# What goes with a secret but is none: names, addresses, identifiers.
HARMLESS = re.compile(r"-(?:id|domain|host|name|username|url|address|repository|public.*)(?:\.\d+)?$")
HARMFUL = ("slack-webhook-url", "sidekiq-sensitive-url")
END = r"""(?:\\?['"\x60]|[\s;]|\\[nr]|$)"""  # of a key in code; in talk a full stop or a bracket may follow
LOOSE_END = r"(?:[^\w+/=-]|$)"
NOTICE = "Built-in rules\n"  # the heading in the package's NOTICE under which the rules' licences stand


def main() -> None:
    """Print the file."""
    rules = [json.dumps(rule) for rule in _rules()]
    package = distribution(PACKAGE)
    notice = (package.read_text("licenses/NOTICE") or "").partition(NOTICE)[2].strip("-\n").splitlines()
    head = {"source": f"{PACKAGE} {package.version}", "licences": notice}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    print("\n".join(["{", *lines, ' "rules": [', ",\n".join(f"  {rule}" for rule in rules), " ]", "}"]))  # noqa: T201


def _rules() -> Iterator[tuple[str, str, float]]:
    """Yield id, pattern and least entropy, bits a character, of each rule for any text."""
    rules = Rules(confidence="low", cache=False)
    for name in (rule["id"] for rule in rules.metadata()):
        rule, short = rules.detail(name), name.partition(".")[2]
        pattern = rule["pattern"].replace(END, LOOSE_END)
        if rule["path"] or (HARMLESS.search(short) and short not in HARMFUL):
            continue
        try:
            re2.compile(pattern)
        except re2.error:  # an option that RE2 lacks
            continue
        yield short.replace("secrets/", ""), pattern, max(_thresholds(rule["betterleaks_filter"]), default=0.0)


def _thresholds(node: Any) -> Iterator[float]:
    """Yield the numbers that a rule's filter compares the entropy with."""
    if isinstance(node, dict):
        is_less = node.get("kind") == "binary" and node.get("operator") in ("<", "<=")
        if is_less and node["left"].get("callee", {}).get("value") == "entropy":
            yield float(node["right"]["value"])
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _thresholds(child)


if __name__ == "__main__":
    main()
