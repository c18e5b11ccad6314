import pytest

from arv_ssh.errors import ConfigError, UsageError
from crunch_sshd import crunch_run

UUID = "zzzzz-dz642-abcdeabcdeabcde"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.7", ("10.0.0.7", 0)),
        ("10.0.0.7:2222", ("10.0.0.7", 2222)),
        ("node.example", ("node.example", 0)),
        ("::1", ("::1", 0)),
        ("[::1]", ("::1", 0)),
        ("[::1]:22", ("::1", 22)),
    ],
)
def test_gateway_address(text: str, address: tuple[str, int]) -> None:
    """HOST and HOST:PORT are read, with brackets round an IPv6 address that has a port."""
    assert crunch_run.split_address(text) == address


@pytest.mark.parametrize("text", ["", ":22", "host:", "host:ssh", "host:65536", "[::1", "[::1]22"])
def test_bad_gateway_address(text: str) -> None:
    """Anything else is refused with a sentence that shows it."""
    with pytest.raises(UsageError, match="is not HOST or HOST:PORT"):
        crunch_run.split_address(text)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name one container by its UUID"),
        (["zzzzz-xvhdp-abcdeabcdeabcde"], "name one container by its UUID"),
        ([UUID, "--gateway-auth-secret"], "expected one argument"),
        ([UUID, "--gateway-auth-secret", "env:ARV_SSH_NO_SUCH_NAME"], "has no variable ARV_SSH_NO_SUCH_NAME"),
        ([UUID, "--gateway-auth-secrt=hunter2"], "unknown argument --gateway-auth-secrt"),
        ([UUID, "--runtime", "magic"], "invalid choice"),
        ([UUID, "--gateway-address", "host:port"], "is not HOST or HOST:PORT"),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong command line ends with status 2 and one line on stderr, which repeats no value that could be a secret."""
    assert crunch_run.main(arguments) == 2
    _, stderr = capsys.readouterr()
    assert sentence in stderr
    assert stderr.count("\n") == 1
    assert "hunter2" not in stderr


@pytest.mark.parametrize("missing", ["ARVADOS_API_HOST", "ARVADOS_API_TOKEN"])
def test_missing_settings(missing: str) -> None:
    """Without an API host or token crunch-run says which variable is not set."""
    environment = {"ARVADOS_API_HOST": "api.example", "ARVADOS_API_TOKEN": "v2/token"}
    del environment[missing]
    with pytest.raises(ConfigError, match=f"{missing} is not set"):
        crunch_run.api_client(environment)
