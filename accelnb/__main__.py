"""``python -m accelnb``: the ``accelnb`` command."""

from accelnb.cli.main import main

if __name__ == "__main__":
    main()
