"""Print the default configuration as a file to edit: every option commented out, with its meaning and default."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Any

from pydantic.fields import FieldInfo

from service.settings.load import Settings

WIDTH = 110
HEADER = """\
# lars-agent: what the daemon does where you say nothing. Remove the # in front of a line to change it, then
#     systemctl reload lars-agent         (as a user's own daemon: send it SIGHUP)
# Changes of [server], [model] and [runtime] (but for keep_alive_s) take effect at the next start:
#     systemctl restart lars-agent        (as a user's own daemon: start it again)
# Every key can also be set as an environment variable: LARS_AGENT_SERVER__PORT is [server] port. The token belongs
# into the environment or into a file that only root reads, not here: this file may be read by everyone.
"""


def default_config() -> str:
    """Return the whole file as TOML."""
    data_dir = Settings.model_fields["data_dir"]
    lines = [HEADER, *_comment(data_dir), '#data_dir = "/var/lib/lars-agent"', ""]
    for name, field in Settings.model_fields.items():
        section: Any = field.annotation
        if hasattr(section, "__pydantic_fields__"):
            lines.append(f"[{name}]")
            for key, option in section.__pydantic_fields__.items():
                lines += [*_comment(option), f"#{key} = {_toml(option)}", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _comment(field: FieldInfo) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(field.description or "", WIDTH)]


def _toml(field: FieldInfo) -> str:
    """Return the default in TOML, or an example if the key is unset by default."""
    default: Any = field.get_default(call_default_factory=True)
    if default is None:
        default = (field.examples or [""])[0]
    return json.dumps(list(default) if isinstance(default, tuple) else default)


if __name__ == "__main__":
    sys.stdout.write(default_config())
