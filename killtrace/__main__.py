"""Run killtrace from a checkout: python3 -m killtrace."""

from killtrace.cli.main import entry

entry()
