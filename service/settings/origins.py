"""Origins of web pages, as browsers name them in the header `Origin`."""

from __future__ import annotations

import re

ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
OWN_PORTS = {"http": ":80", "https": ":443"}  # which browsers leave out
REASONS = {
    "*": "would let the page of every site in; list those that may call",
    "null": "is what the pages of every site can send (sandboxed frames, files); serve the page over HTTP instead",
}
FORM = "is no origin; give scheme://host or scheme://host:port, such as https://chat.example or app://obsidian.md"


def web_origin(text: str) -> str:
    """Return the origin as a browser sends it: in lower case, without its scheme's own port. Raises ValueError."""
    wanted = text.strip().lower()
    if wanted in REASONS:
        raise ValueError(REASONS[wanted])
    match = ORIGIN.fullmatch(wanted)
    if match is None or match[1] == "file":
        raise ValueError(FORM)
    scheme, host, port = match.groups(default="")
    return f"{scheme}://{host}{'' if port == OWN_PORTS.get(scheme) else port}"
