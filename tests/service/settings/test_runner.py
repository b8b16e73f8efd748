"""The address of the machine that trains."""

from __future__ import annotations

import pytest

from lars_agent.errors import ConfigError
from service.settings.load import SettingsSource
from service.settings.runner import SshAddress, parse_runner


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("local", None),
        ("ssh://desktop", SshAddress("desktop")),
        ("ssh://ada@desktop.lan:2222/opt/lars-agent/", SshAddress("desktop.lan", "ada", 2222, "/opt/lars-agent")),
        ("ssh://[fe80::1%eth0]:22/~/my venv", SshAddress("fe80::1%eth0", None, 22, "/~/my venv")),
    ],
)
def test_an_address_is_read_and_written_the_same(text, address):
    assert parse_runner(text) == address
    if address is not None:
        assert parse_runner(str(address)) == address


def test_no_name_is_an_option_of_ssh():
    assert parse_runner("ssh://ada@desktop:2222").arguments == ["-p", "2222", "-l", "ada", "--", "desktop"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "desktop",
            "ssh://",
            "ssh:///opt",
            "ssh://-oProxyCommand=reboot",
            "ssh://-l@desktop",
            "ssh://a b@desktop",
        ),
        *(
            "ssh://desktop;reboot",
            "ssh://$(reboot)",
            "ssh://desktop/`reboot`",
            "ssh://desktop/$HOME",
            "ssh://desktop/a'b",
        ),
        *("ssh://desktop/a\nb", "ssh://desktop:0", "ssh://desktop:70000", "ssh://[::g]", "ssh://ada:word@desktop"),
        *("SSH://desktop", "ssh://desktop?x", "ssh://désktop", "http://desktop"),
    ],
)
def test_an_address_that_could_be_an_option_or_a_command_is_refused(text):
    with pytest.raises(ConfigError, match=r"training\.runner"):
        SettingsSource(fixed={"training": {"runner": text}}).load()
