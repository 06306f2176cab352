"""``python -m accelnb.compat SCRIPT [ARGS]...``: run a script that imports accelerate, unchanged.

``-m MODULE`` in the place of SCRIPT runs a module. On several processes:
``accelnb launch -m accelnb.compat train.py --lr 0.1``.
"""

from __future__ import annotations

import os
import runpy
import sys

import accelnb.compat.accelerate  # noqa: F401


def main() -> None:
    """Run what the arguments name, as python itself would."""
    given = sys.argv[1:]
    is_module = given[:1] == ["-m"]
    if not given[is_module:]:
        sys.exit("accelnb: give what to run: python -m accelnb.compat SCRIPT|-m MODULE [ARGS]...")
    sys.argv[:] = given[is_module:]
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
