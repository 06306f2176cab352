"""A short test of a configuration on ranks of its own: start, talk, train, end."""

from accelnb.cli.selftest.steps import Step, self_test

__all__ = ["Step", "self_test"]
