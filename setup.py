"""For tools that ask for a setup.py; all that is known of the distribution is in pyproject.toml."""

from setuptools import setup

setup()
