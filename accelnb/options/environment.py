"""What a process finds around it: environment variables, and its working folder.

The variables are what launchers set and training reads: those of torchrun and of Accelerate, so
that ``accelnb``, ``torchrun`` and ``accelerate launch`` start the same code.
"""

from __future__ import annotations

import os

from accelnb.errors import AccelnbError

YES = ("1", "true", "yes", "on", "y", "t")
NO = ("0", "false", "no", "off", "n", "f", "")

MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"
USE_CPU = "ACCELERATE_USE_CPU"
ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
OUTPUTS = "ACCELNB_OUTPUTS"  # fp32, or compute: in mixed precision they stay as computed
SHARED = "ACCELNB_SHARED_DEVICE"  # true: ranks share devices, which nccl refuses
DEVICE = "ACCELNB_DEVICE"  # a name of accelnb.devices.DEVICES
STRATEGY = "ACCELNB_STRATEGY"  # ddp, fsdp, hsdp, or none: models stay as they are
MESH = "ACCELNB_MESH"  # dp_shard=2,tp=2, or none
THREADS = "OMP_NUM_THREADS"
_MOST_THREADS = 4096  # no machine has more cores; torch crashes where it is given very many

# Options of a launch that an Accelerator takes over, by the names that they have there.
BY_OPTION = {
    "precision": MIXED_PRECISION,
    "outputs": OUTPUTS,
    "accumulation": ACCUMULATION,
    "strategy": STRATEGY,
    "mesh": MESH,
}


def flag(name: str, default: bool = False) -> bool:
    """Return whether the variable `name` says yes.

    Raises
    ------
    AccelnbError
        It says neither yes nor no.

    Examples
    --------
    >>> from accelnb.options.environment import flag
    >>> flag("NO_SUCH_VARIABLE", default=True)
    True
    """
    text = os.environ.get(name)
    if text is None:
        return default
    if text.lower() in YES:
        return True
    if text.lower() in NO:
        return False
    raise AccelnbError(f"{name}={text}: set this environment variable to true or false")


def number(*names: str, default: int) -> int:
    """Return the first of the variables `names` that is set to a number of at least 0.

    Raises
    ------
    AccelnbError
        One is set to something that is no number.

    Examples
    --------
    >>> from accelnb.options.environment import number
    >>> number("NO_SUCH_VARIABLE", default=1)
    1
    """
    for name in names:
        text = os.environ.get(name, "").strip()
        if text.isdecimal():
            return int(text)
        if text and not text.removeprefix("-").isdecimal():  # -1 is a common "not set"
            raise AccelnbError(f"{name}={text}: set this environment variable to a number")
    return default


def threads() -> int | None:
    """Return how many threads OMP_NUM_THREADS asks for; None where it does not say.

    Of a list, which is for nested parallel regions, the first counts.
    """
    text = os.environ.get(THREADS, "").partition(",")[0].strip()
    is_number = text.isdecimal() and 0 < int(text) <= _MOST_THREADS
    return int(text) if is_number else None


def wrong_threads() -> str | None:
    """Return what is wrong with OMP_NUM_THREADS, None if nothing is."""
    if THREADS not in os.environ or threads() is not None:
        return None
    return f"{THREADS}={os.environ[THREADS]!r} is no number of threads and counts as not set"


def working_folder() -> str | None:
    """Return the working folder; None if it was removed, or may not be looked up.

    Examples
    --------
    >>> import os
    >>> from accelnb.options.environment import working_folder
    >>> working_folder() == os.getcwd()
    True
    """
    try:
        return os.getcwd()
    except OSError:
        return None


def folder_to_start_in(instead: str) -> str | None:
    """Return where a new Python is to start: None for here, `instead` if this folder is gone.

    torch cannot be imported in a removed folder: MKL then does not find its own libraries.
    """
    return instead if working_folder() is None else None
