"""What each kind of device is, and how a process uses its own.

Examples
--------
>>> from accelnb.devices import DEVICES
>>> DEVICES["cuda"].backend
'cpu:gloo,cuda:nccl'
"""

from accelnb.devices.device import Device as Device
from accelnb.devices.device_kinds import DEVICES as DEVICES
from accelnb.devices.device_kinds import best_available as best_available
from accelnb.devices.device_kinds import records as records
from accelnb.devices.precision_support import Ability as Ability
from accelnb.devices.precision_support import abilities as abilities
