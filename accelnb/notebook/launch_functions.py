"""`launch`, `distributed` and `notebook_launcher`: a function on ranks of its own."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import InteractiveShell

from accelnb.engine.failure import RunInterrupted, stopped_lines
from accelnb.engine.group import WorkerGroup
from accelnb.engine.launchers.choice import finish_for, hardware_for
from accelnb.engine.run import RankResults
from accelnb.engine.serialization.pack import call, dumps
from accelnb.errors import AccelnbError
from accelnb.notebook.cell_history import Sources, names_in, texts_so_far
from accelnb.notebook.defaults import Defaults
from accelnb.notebook.extension import in_rank, session_of
from accelnb.notebook.notices import ranks_of, say, saying_if_connecting, saying_if_slow
from accelnb.notebook.values.comparison import Comparison, OnRank
from accelnb.notebook.values.module_objects import Imports
from accelnb.notebook.views.show_run import show_run
from accelnb.options.config import (
    ConfigError,
    LaunchConfig,
    check_known,
    from_mapping,
    options,
    resolve,
    settings_for_ranks,
    sharing,
)

P = ParamSpec("P")


def launch(function: Callable[..., Any], *args: Any, **keywords: Any) -> RankResults:
    """Call a function on every rank of a new group and return what each rank returned.

    The ranks have a process group and torchrun's environment, and end with the call. They are
    not those of `%%distributed` cells, whose variables stay as they are.

    Parameters
    ----------
    function
        Any function, also one of the notebook or of ``__main__``; it travels by value.
    *args
        Its arguments.
    **keywords
        Options of `accelnb.options.config.LaunchConfig` (``procs``, ``device``, ``precision``,
        ``strategy``, ``mesh``, ``timeout`` ...); all others are the function's own. An option
        whose name is also a parameter of the function is given to the launch. In a notebook,
        options that are not given are those of ``accelnb.yaml`` beside it, as for cells.

    Returns
    -------
    results : RankResults
        A sequence; ``results[1]`` is what rank 1 returned.

    Raises
    ------
    ConfigError
        An option is wrong; nothing was started.
    RankError
        The function raised, or its process ended, on some rank.

    Examples
    --------
    >>> import accelnb
    >>> def total(start):
    ...     import torch, torch.distributed as dist
    ...     value = torch.tensor(start + dist.get_rank())
    ...     dist.all_reduce(value)
    ...     return value.item()
    >>> list(accelnb.launch(total, 10, procs=2))
    [21, 21]
    """
    known = {option.name for option in options(LaunchConfig)}
    given = {name: value for name, value in keywords.items() if name in known}
    passed = {name: value for name, value in keywords.items() if name not in known}
    _check_signature(function, args, passed)
    return _launch(function, args, passed, given)


def distributed(**given: Any) -> Callable[[Callable[P, Any]], Callable[P, RankResults]]:
    """Make a function run on every rank of a new group when it is called.

    Parameters
    ----------
    **given
        Options of `accelnb.options.config.LaunchConfig`.

    Examples
    --------
    >>> import accelnb
    >>> @accelnb.distributed(procs=2)
    ... def double(x):
    ...     return 2 * x
    >>> list(double(21))
    [42, 42]
    """
    check_known(given, LaunchConfig)
    from_mapping(LaunchConfig, given)  # what is wrong is said here already

    def decorate(function: Callable[P, Any]) -> Callable[P, RankResults]:
        @functools.wraps(function)
        def on_ranks(*args: P.args, **kwargs: P.kwargs) -> RankResults:
            return _launch(function, args, kwargs, given)

        return on_ranks

    return decorate


def notebook_launcher(
    function: Callable[..., Any],
    args: tuple[Any, ...] = (),
    num_processes: int | None = None,
    mixed_precision: str = "no",
    use_port: str | int = "29500",
    master_addr: str = "127.0.0.1",
    node_rank: int = 0,
    num_nodes: int = 1,
    rdzv_backend: str = "static",
    rdzv_endpoint: str = "",
    rdzv_conf: Mapping[str, Any] | None = None,
    rdzv_id: str = "none",
    max_restarts: int = 0,
    monitor_interval: float = 0.1,
    log_line_prefix_template: str | None = None,
) -> RankResults:
    """Launch a training function as Accelerate's ``notebook_launcher`` does; return its results.

    It takes Accelerate's arguments, so that a notebook moves by changing the import. Ports and
    addresses are chosen by the system here: `use_port`, `master_addr`, the ``rdzv_*``
    arguments, `monitor_interval` and `log_line_prefix_template` have no work to do on one
    machine.

    Parameters
    ----------
    function, args
        The function and its arguments.
    num_processes
        Number of ranks; by default as ``accelnb.yaml`` says, else one for each accelerator, or
        two on a CPU.
    mixed_precision
        ``no``, ``fp16``, ``bf16`` or ``fp8``: what ``Accelerator()`` uses in the function.
    num_nodes, node_rank, max_restarts
        More than one node, for which there is `launch`, and restarts raise `ConfigError`.

    Examples
    --------
    >>> import accelnb
    >>> accelnb.notebook_launcher(lambda x: x + 1, (1,), num_processes=2)
    [0: 2, 1: 2]
    """
    if num_nodes != 1 or node_rank != 0:
        raise ConfigError(
            f"num_nodes={num_nodes}: use accelnb.launch(function, cluster='ray://HOST:PORT', "
            "nodes=N) for several machines"
        )
    if not isinstance(args, tuple | list):
        raise AccelnbError(f"args={args!r}: must be a tuple, such as ({args!r},)")
    if max_restarts:
        raise ConfigError(f"max_restarts={max_restarts}: restarts are not supported yet; use 0")
    given: dict[str, Any] = {"precision": str(mixed_precision).lower()}
    if num_processes is not None:
        given["procs"] = num_processes
    return _launch(function, tuple(args), {}, given)


def debug_launcher(
    function: Callable[..., Any], args: tuple[Any, ...] = (), num_processes: int = 2
) -> RankResults:
    """Launch a function on processes of the CPU, as Accelerate's ``debug_launcher`` does.

    Examples
    --------
    >>> import accelnb
    >>> accelnb.debug_launcher(lambda: "here")
    [0: 'here', 1: 'here']
    """
    return _launch(function, tuple(args), {}, {"procs": num_processes, "device": "cpu"})


def _launch(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    given: Mapping[str, Any],
) -> RankResults:
    if in_rank():
        raise AccelnbError("this code already runs on a rank; launch from the notebook instead")
    if not callable(function):
        raise AccelnbError(f"{function!r} is not a function, so ranks cannot call it")
    shell = get_ipython()
    config = _resolved(given, shell)
    session = session_of(shell)
    imports = session.requests.imports if session else _imports_so_far(shell)
    now = Comparison({}, imports)
    try:
        packed = dumps(
            call(function, args, kwargs, now.renewals(now.lacking((), OnRank()))),
            finish=finish_for(config),
            imported=now.imported,
        )
    except Exception as error:
        raise AccelnbError(
            f"{getattr(function, '__name__', 'the function')} or its arguments cannot be sent to "
            f"the ranks ({error}); create what cannot be sent inside the function"
        ) from error
    sources = Sources().for_rank(0, shell) if shell is not None else {}
    options = {"settings": settings_for_ranks(config), "sources": sources, "result": True}
    request = (options | packed.content, packed.buffers)
    if note := sharing(config, hardware_for(config)):
        say(note)
    with saying_if_slow(f"starting {ranks_of(config)}"):
        group = WorkerGroup(config)
    try:
        run = group.run(
            "call_request",
            dict.fromkeys(group.ranks, request),
            timeout=config.timeout,
            stall=config.stall,
            lent=[packed],
        )
        try:
            show_run(run, config)
        except RunInterrupted:
            said = ["stopped; the ranks of this call have ended", *stopped_lines(run.failures)]
            raise RunInterrupted("\n".join(said)) from None
        return run.results()
    finally:
        group.shutdown()


def _imports_so_far(shell: InteractiveShell | None) -> Imports:
    """Return the imports of a notebook without the extension, or of the script that runs."""
    main = sys.modules["__main__"]
    if shell is not None:
        namespace, texts = shell.user_ns, texts_so_far(shell)
    else:
        namespace, texts = vars(main), []
        with contextlib.suppress(AttributeError, OSError):  # it is no file
            texts = [Path(main.__file__ or "").read_text()]
    imports = Imports(namespace)
    imports.read((text, names_in(text, shell)) for text in texts)
    return imports


def _resolved(given: Mapping[str, Any], shell: InteractiveShell | None) -> LaunchConfig:
    """Fill in what was not given: in a notebook from its defaults, then from the machine."""
    session = session_of(shell)
    defaults = session.settings if session else Defaults(shell) if shell else None
    try:
        config = from_mapping(LaunchConfig, given, defaults.config() if defaults else None)
        with saying_if_connecting(config):
            return resolve(config, hardware_for(config))
    except ConfigError as error:
        raise defaults.explain(error, given) if defaults else error from None


def _check_signature(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Refuse here, rather than on every rank, arguments that do not fit."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # a builtin without one
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise AccelnbError(f"{function.__name__}() cannot be called so: {error}") from None
