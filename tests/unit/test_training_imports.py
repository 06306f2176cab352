"""Training runs under torchrun and in scripts, where there is no notebook."""

from __future__ import annotations

_PROGRAM = """
import importlib, pkgutil, sys

class Refusing:
    def find_spec(self, name, path, target=None):
        blocked = ("IPython", "ipywidgets", "accelnb.notebook", "accelnb.engine", "accelnb.worker")
        if any(name == one or name.startswith(one + ".") for one in blocked):
            raise ImportError(f"training imports {name}")

sys.meta_path.insert(0, Refusing())
import accelnb.training, accelnb.utils
for module in pkgutil.walk_packages(accelnb.training.__path__, "accelnb.training."):
    importlib.import_module(module.name)
for name in accelnb.utils.__all__:
    getattr(accelnb.utils, name)
accelnb.Accelerator().end_training()
print("done")
"""


def test_training_imports_nothing_of_the_notebook_the_engine_or_the_ranks(run_script):
    done = run_script(_PROGRAM)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
