"""Metadata of the one distribution, arv-ssh; the build system and the tools' tables are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = ("arv_ssh", "proxycommand", "crunch_sshd", "config_templates")

setup(
    name="arv-ssh",
    version="0.1.0",
    description="Shell access to running Arvados containers with stock OpenSSH",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=[f"{name}{rest}" for name in PACKAGES for rest in ("", ".*")]),
    package_data={"config_templates": ["*", "*/*"]},
    # Where man, bash-completion and zsh look below the prefix that something is installed in.
    data_files=[
        ("share/man/man1", ["docs/man/arvados-client.1", "docs/man/arv-ssh.1"]),
        ("share/man/man8", [f"docs/man/{name}.8" for name in ("crunch-run", "crunch-sshd", "crunch-dispatch-local")]),
        ("share/bash-completion/completions", [
            f"config_templates/bash-completion/{name}" for name in ("arvados-client", "arv-ssh")
        ]),
        ("share/zsh/site-functions", [f"config_templates/zsh/_{name}" for name in ("arvados-client", "arv-ssh")]),
    ],
    install_requires=[
        "paramiko>=5.1,<6",
        "requests>=2.31,<3",
        "docker>=7.1,<8",
        "sshtunnel>=0.5.1,<0.6",
        "h11>=0.14,<0.17",
        "uvloop>=0.19,<1",
        "SQLAlchemy>=2.0,<2.2",
        "alembic>=1.14,<2",
        "PyYAML>=6.0,<7",
        "prometheus-client>=0.20,<1",
        "setproctitle>=1.3,<2",
        # Comes with paramiko; named because the TLS certificates and the host key are made with it directly.
        "cryptography>=43",
    ],
    extras_require={
        # For an embedded cluster whose database several controllers share.
        "postgresql": ["psycopg[binary]>=3.2,<4"],
        "test": [
            "psycopg[binary]>=3.2,<4",
            "pytest>=8.3,<10", "pytest-timeout>=2.3,<3", "hypothesis>=6.100,<7",
            # Clients that the integration tests drive: an SSH library that is not paramiko, ansible, and the auditor.
            "asyncssh>=2.18,<3", "ansible-core>=2.16,<3", "ssh-audit>=3.3,<4",
            # Builds the wheel and the sdist that the tests install, without a network.
            "setuptools>=70.1",
            # Arvados' own client library, which the embedded API must satisfy.
            "arvados-python-client>=3.0,<4",
        ],
        "dev": [
            "ruff>=0.11,<1", "mypy>=1.15,<3", "types-requests", "types-PyYAML", "types-paramiko", "types-docker",
            # Makes the completions (scripts/generate); this very version, for what it makes is kept and compared.
            "shtab==1.13.0",
        ],
        # Draws the pictures of the documentation (scripts/screenshot).
        "screenshot": ["pyte>=0.8,<1", "rich>=13,<16"],
    },
    entry_points={
        "console_scripts": [
            "arvados-client=proxycommand.__main__:main",
            "arv-ssh=arv_ssh.cli.main:main",
            "crunch-run=crunch_sshd.crunch_run:main",
            "crunch-sshd=crunch_sshd.crunch_sshd:main",
            "crunch-dispatch-local=arv_ssh.dispatch.local:main",
        ]
    },
)
