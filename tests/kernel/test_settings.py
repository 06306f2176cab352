"""What people set once at the top of a notebook holds on the ranks."""

from __future__ import annotations

import pytest

# What a notebook's cell sets, what a rank then sees, how the notebook goes back, what is seen then.
SETTINGS = {
    "dtype": (
        "torch.set_default_dtype(torch.float64)",
        "torch.ones(1).dtype",
        "torch.float64",
        "torch.set_default_dtype(torch.float32)",
        "torch.float32",
    ),
    "default device": (
        "torch.set_default_device('meta')",
        "torch.ones(1).device.type",
        "'meta'",
        "torch.set_default_device(None)",
        "'cpu'",
    ),
    "default device of another kind": (
        "torch.set_default_device('cuda:0')",
        "torch.ones(1).device.type",
        "'cpu'",
        "torch.set_default_device(None)",
        "'cpu'",
    ),
    "deterministic": (
        "torch.use_deterministic_algorithms(True, warn_only=True); "
        "torch.utils.deterministic.fill_uninitialized_memory = False",
        "(torch.are_deterministic_algorithms_enabled(), "
        "torch.is_deterministic_algorithms_warn_only_enabled(), "
        "torch.utils.deterministic.fill_uninitialized_memory)",
        "(True, True, False)",
        "torch.use_deterministic_algorithms(False); "
        "torch.utils.deterministic.fill_uninitialized_memory = True",
        "(False, False, True)",
    ),
    "cudnn": (
        "torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True; "
        "torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.enabled = False",
        "[getattr(torch.backends.cudnn, name) for name in "
        "('benchmark', 'deterministic', 'enabled', 'allow_tf32')]",
        "[True, True, False, False]",
        "torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False; "
        "torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.enabled = True",
        "[False, False, True, True]",
    ),
    "tf32 of matmul": (
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "(torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision())",
        "(True, 'high')",
        "torch.backends.cuda.matmul.allow_tf32 = False",
        "(False, 'highest')",
    ),
    "attention kernels": (
        "torch.backends.cuda.enable_flash_sdp(False)",
        "(torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())",
        "(False, True)",
        "torch.backends.cuda.enable_flash_sdp(True)",
        "(True, True)",
    ),
    "print options of torch": (
        "torch.set_printoptions(precision=1, sci_mode=False)",
        "str(torch.tensor([1.234]))",
        "'tensor([1.2])'",
        "torch.set_printoptions(profile='default')",
        "'tensor([1.2340])'",
    ),
    "grad mode": (
        "torch.set_grad_enabled(False)",
        "torch.ones(1, requires_grad=True).mul(2).requires_grad",
        "False",
        "torch.set_grad_enabled(True)",
        "True",
    ),
    "anomaly detection": (
        "torch.autograd.set_detect_anomaly(True, check_nan=False)",
        "(torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())",
        "(True, False)",
        "torch.autograd.set_detect_anomaly(False)",
        "(False, True)",
    ),
    "threads": (
        "torch.set_num_threads(3)",
        "torch.get_num_threads()",
        "3",
        "torch.set_num_threads(5)",
        "5",
    ),
    "sharing strategy": (
        "torch.multiprocessing.set_sharing_strategy('file_system')",
        "torch.multiprocessing.get_sharing_strategy()",
        "'file_system'",
        "torch.multiprocessing.set_sharing_strategy('file_descriptor')",
        "'file_descriptor'",
    ),
    "start method": (
        "import multiprocessing; multiprocessing.set_start_method('spawn', force=True)",
        "__import__('multiprocessing').get_start_method()",
        "'spawn'",
        "multiprocessing.set_start_method(None, force=True)",
        "'fork'",
    ),
    "print options of numpy": (
        "np.set_printoptions(precision=2, legacy='1.25', formatter={'int': 'i{}'.format})",
        "(str(np.array([1.2345])), repr(np.float64(2.0)), str(np.array([3])))",
        "('[1.23]', '2.0', '[i3]')",
        "np.set_printoptions(precision=8, legacy=False, formatter=None)",
        "('[1.2345]', 'np.float64(2.0)', '[3]')",
    ),
    "seterr": (
        "np.seterr(all='raise')",
        "np.geterr()['divide']",
        "'raise'",
        "np.seterr(divide='warn', over='warn', under='ignore', invalid='warn')",
        "'warn'",
    ),
    "pandas": (
        "pd.set_option('display.max_rows', 7, 'display.float_format', '{:.1f}'.format)",
        "(pd.get_option('display.max_rows'), str(pd.Series([1.25])).split()[1])",
        "(7, '1.2')",
        "pd.reset_option('display.float_format'); pd.reset_option('display.max_rows')",
        "(60, '1.25')",
    ),
    "matplotlib": (
        "plt.style.use('ggplot'); plt.rcParams['figure.figsize'] = (2, 1)",
        "(plt.rcParams['axes.facecolor'], list(plt.rcParams['figure.figsize']))",
        "('#E5E5E5', [2.0, 1.0])",
        "plt.rcdefaults()",
        "('white', [6.4, 4.8])",
    ),
    "recursion limit": (
        "import sys; sys.setrecursionlimit(5000)",
        "__import__('sys').getrecursionlimit()",
        "5000",
        "sys.setrecursionlimit(1000)",
        "1000",
    ),
    "decimal": (
        "from decimal import Decimal, getcontext, Inexact\n"
        "getcontext().prec = 5; getcontext().traps[Inexact] = False",
        "str(Decimal(1) / 3)",
        "'0.33333'",
        "getcontext().prec = 28",
        "'0.3333333333333333333333333333'",
    ),
    "levels": (
        "logging.getLogger('mine').setLevel('DEBUG'); logging.getLogger('loud').disabled = True",
        "(logging.getLogger('mine.of').isEnabledFor(10), logging.getLogger('loud').disabled)",
        "(True, True)",
        "logging.getLogger('mine').setLevel(0); logging.getLogger('loud').disabled = False",
        "(False, False)",
    ),
    "logging.disable": (
        "logging.disable(logging.CRITICAL)",
        "logging.getLogger('a').isEnabledFor(logging.ERROR)",
        "False",
        "logging.disable(logging.NOTSET)",
        "True",
    ),
    "captureWarnings": (
        "logging.captureWarnings(True)",
        "logging._warnings_showwarning is not None",
        "True",
        "logging.captureWarnings(False)",
        "False",
    ),
}


@pytest.fixture(scope="module")
def with_imports(shared_notebook):
    shared_notebook.run(
        "import logging, warnings, torch, numpy as np, pandas as pd, matplotlib.pyplot as plt\n"
        "%matplotlib inline"
    )
    return shared_notebook


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_holds_on_ranks_until_the_notebook_goes_back(with_imports, setting):
    sets, asked, seen, goes_back, seen_then = SETTINGS[setting]
    with_imports.run(sets)
    assert with_imports.run(f"%distributed {asked}").said == {seen}
    with_imports.run(goes_back)
    assert with_imports.run(f"%distributed {asked}").said == {seen_then}


def test_what_a_ranks_cell_sets_stays_until_the_notebook_changes_that_setting(with_imports):
    asked = "%distributed (torch.get_default_dtype(), torch.is_grad_enabled())"
    with_imports.run("%%distributed\ntorch.set_default_dtype(torch.float16)")
    with_imports.run("torch.set_grad_enabled(False)")
    assert with_imports.run(asked).lines == ["[0-1] (torch.float16, False)"]
    with_imports.run("torch.set_grad_enabled(True); torch.set_default_dtype(torch.float64)")
    assert with_imports.run(asked).lines == ["[0-1] (torch.float64, True)"]
    with_imports.run("torch.set_default_dtype(torch.float32)")


def test_ranks_print_what_the_notebooks_loggers_print(with_imports):
    with_imports.run(
        "logging.basicConfig(level=logging.INFO, format='%(levelname)s|%(message)s')\n"
        "own = logging.getLogger('own'); own.propagate = False\n"
        "import sys; own.addHandler(logging.StreamHandler(sys.stdout))"
    )
    cell = (
        "%%distributed\nlogging.debug('no'); logging.info('yes')\nlogging.getLogger('own').info(1)"
    )
    output = with_imports.run(cell)
    assert (output.stderr, output.stdout) == ("[0-1] INFO|yes\n", "[0-1] 1\n")
    with_imports.run("logging.root.handlers[0].setFormatter(logging.Formatter('%(message)s'))")
    assert with_imports.run(cell).stderr == "[0-1] yes\n"
    with_imports.run("logging.root.handlers.clear(); own.handlers.clear(); own.propagate = True")
    with_imports.run("logging.root.setLevel(logging.WARNING)")
    assert with_imports.run(cell).stderr == ""
    with_imports.run("logging.root.addHandler(logging.FileHandler('notebook.log'))")
    assert "the root logger's FileHandler stays in the notebook" in with_imports.run(cell).stderr
    assert with_imports.run(cell).stderr == ""  # said once
    with_imports.run("logging.root.handlers.clear()")


def test_filters_of_warnings_are_the_notebooks(with_imports):
    with_imports.run(
        "before = list(warnings.filters)\n"
        "warnings.filterwarnings('error', 'worse', UserWarning)\n"
        "warnings.simplefilter('ignore', pd.errors.PerformanceWarning)"
    )
    output = with_imports.run(
        "%%distributed\nwarnings.warn('quiet', pd.errors.PerformanceWarning)\n"
        "try:\n    warnings.warn('worse')\nexcept UserWarning as error:\n    print(repr(error))"
    )
    assert (output.stdout, output.stderr) == ("[0-1] UserWarning('worse')\n", "")
    with_imports.run("warnings.resetwarnings(); warnings.filters[:] = before")
    output = with_imports.run("%%distributed\nwarnings.warn('worse')")
    assert "UserWarning: worse" in output.stderr


def test_ranks_that_start_later_hold_the_settings_too(notebook):
    notebook.run(
        "import torch, accelnb, numpy as np\n"
        "torch.set_default_dtype(torch.float64); torch.set_num_threads(3)\n"
        "class Odd:\n    def __reduce__(self): raise TypeError('odd')\n"
        "np.set_printoptions(formatter={'int': Odd()})"
    )
    asked = "%distributed {} (torch.ones(1).dtype, torch.get_num_threads())"
    seen = "[0-1] (torch.float64, 3)"
    output = notebook.run(asked.format("--procs 2"))
    assert output.lines == [seen]
    assert "numpy's print options cannot be taken to the ranks" in output.stderr
    notebook.run("%%distributed --ranks 1\nimport os; os._exit(1)", fails=True)
    output = notebook.run(asked.format(""))
    assert output.lines == [seen]
    assert "print options" not in output.stderr
    assert notebook.run(asked.format("--fresh --start spawn")).lines == [seen]
    output = notebook.run("accelnb.launch(lambda: str(__import__('torch').ones(1).dtype), procs=2)")
    assert output.value == "[0: 'torch.float64', 1: 'torch.float64']"
