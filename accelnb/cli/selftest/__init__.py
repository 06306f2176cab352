"""A short test of a configuration on ranks of its own: start, talk, train, end."""

from accelnb.cli.selftest.steps import Step as Step
from accelnb.cli.selftest.steps import self_test as self_test
from accelnb.cli.selftest.steps import show as show
