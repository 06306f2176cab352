"""What this machine offers, found without importing torch or initialising a device.

`probe` is what every cell asks: counts, in microseconds. `machine.inspect_machine` is what a person
asks: names, memory, what each device can do, and what is wrong.
"""

from accelnb.devices.hardware.probe import Hardware as Hardware
from accelnb.devices.hardware.probe import probe as probe
from accelnb.devices.hardware.torch_build import TorchBuild as TorchBuild
from accelnb.devices.hardware.torch_build import torch_build as torch_build
