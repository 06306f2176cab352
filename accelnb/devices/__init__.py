"""What each kind of device is, and how a process uses its own.

Examples
--------
>>> from accelnb.devices import DEVICES
>>> DEVICES["cuda"].backend
'cpu:gloo,cuda:nccl'
"""

from accelnb.devices.abilities import Ability as Ability
from accelnb.devices.abilities import abilities as abilities
from accelnb.devices.device import Device as Device
from accelnb.devices.table import DEVICES as DEVICES
from accelnb.devices.table import best_available as best_available
from accelnb.devices.table import records as records
