from __future__ import annotations

import pytest

from service.process.user_agents import UNKNOWN, name_of

LIKE = "Mozilla/5.0 ({}) AppleWebKit/537.36 (KHTML, like Gecko) "


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox, Linux"),
        (LIKE.format("Linux; Android 10; K") + "Chrome/142.0.0.0 Mobile Safari/537.36", "Chrome, Android"),
        (LIKE.format("Windows NT 10.0; Win64; x64") + "Chrome/142.0 Safari/537.36 Edg/142.0", "Edge, Windows"),
        (LIKE.format("iPhone; CPU iPhone OS 18_5 like Mac OS X") + "Version/18.5 Safari/604.1", "Safari, iPhone"),
        (LIKE.format("iPad; CPU OS 18_5 like Mac OS X") + "CriOS/142.0 Mobile Safari/604.1", "Chrome, iPad"),
        (LIKE.format("Macintosh; Intel Mac OS X 10_15_7") + "Version/18.5 Safari/605.1.15", "Safari, macOS"),
        ("curl/8.5.0", "curl"),
        ("<script>alert(1)</script>", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_browser_is_named_in_two_words(header, name):
    assert name_of(header) == name
