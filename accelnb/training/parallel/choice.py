"""Which strategy trains on a device."""

from __future__ import annotations

import torch

from accelnb.devices import records
from accelnb.training.configuration import DistributedDataParallelKwargs
from accelnb.training.parallel.ddp import DataParallelStrategy
from accelnb.training.parallel.strategy import SingleProcess


def strategy_on(
    device: torch.device, num_processes: int, handler: DistributedDataParallelKwargs | None
) -> SingleProcess:
    """Return how `num_processes` train one model together; 1 if each trains its own.

    Raises
    ------
    AccelnbError
        The devices of the processes are not connected.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.choice import strategy_on
    >>> type(strategy_on(torch.device("cpu"), num_processes=1, handler=None)).__name__
    'SingleProcess'
    """
    together = num_processes > 1
    if records(device.type):
        from accelnb.training.parallel.xla import XlaProcess, XlaProcesses

        return XlaProcesses(num_processes) if together else XlaProcess()
    return DataParallelStrategy(device, handler) if together else SingleProcess()
