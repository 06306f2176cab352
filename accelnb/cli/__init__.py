"""The ``accelnb`` command."""
