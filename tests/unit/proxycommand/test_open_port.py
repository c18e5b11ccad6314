"""The address that ``arvados-client open`` prints. tests/integration/test_logs.py runs the command."""

from __future__ import annotations

import pytest

from proxycommand import open_port

TOKEN = "v2/zzzzz/x"
SENT = "arvados_api_token=v2%2Fzzzzz%2Fx"


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("https://c/", f"https://c/?{SENT}\n"),
        ("https://c/lab?a=b", f"https://c/lab?a=b&{SENT}\n"),
        ("https://c/lab#a?b", f"https://c/lab?{SENT}#a?b\n"),
        ("https://c/\x1b]0;a\x07\n\u202e\ud800", f"https://c/%1B]0;a%07%0A%E2%80%AE%ED%A0%80?{SENT}\n"),
    ],
)
def test_printed(url: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The token goes to the controller, not into the fragment, which pages read; terminals are given plain text."""
    open_port._show_sites(url, {"access": "private"}, TOKEN)
    assert capsys.readouterr() == (printed, "")
    open_port._show_sites(url, {"access": "public"}, TOKEN)
    printed = capsys.readouterr().out
    assert printed.isascii() and printed.count("\n") == 1 and SENT not in printed
