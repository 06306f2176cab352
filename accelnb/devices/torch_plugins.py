"""The devices that a plugin of torch brings, by its documented calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from accelnb.devices.device import Device
from accelnb.errors import AccelnbError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PluginDevice(Device):
    """A kind of device that torch knows after a package was imported.

    Attributes
    ----------
    assigned : bool
        Whether the plugin gives each process its own device, by the environment of its launcher.
    """

    assigned: bool = False

    def is_available(self) -> bool:
        """Return whether there is such a device; imports the package if it is installed."""
        if self.missing() is not None:
            return False
        try:
            self.load()
        except AccelnbError:  # as on a machine without the driver
            return False
        return super().is_available()

    def _choose(self, index: int) -> torch.device:
        import torch

        if not self.assigned:
            return super()._choose(index)
        return torch.device(self.type, self.module.current_device())


_HALF = ("no", "fp16", "bf16")

# None of these was ever run. What is known of them is public: from the packages' own pages, from
# the devices that Accelerate, DeepSpeed and Ray know, and from how containers are given them.
PLUGINS = (
    PluginDevice(
        "npu",
        "npu",
        "cpu:gloo,npu:hccl",
        "MULTI_NPU",
        _HALF,
        package="torch_npu",
        install="pip install torch-npu",
        files="davinci",
        variable="ASCEND_RT_VISIBLE_DEVICES",
        title="Ascend NPU",
        called=("ascend", "huawei"),
        resource="NPU",
    ),
    PluginDevice(
        "hpu",
        "hpu",
        "cpu:gloo,hpu:hccl",
        "MULTI_HPU",
        _HALF,
        package="habana_frameworks.torch.distributed.hccl",
        install="see https://docs.habana.ai for its installer",
        files="accel/accel_controlD",
        variable="HABANA_VISIBLE_MODULES",
        title="Gaudi HPU",
        called=("gaudi", "habana"),
        resource="HPU",
        assigned=True,
    ),
    PluginDevice(
        "mlu",
        "mlu",
        "cpu:gloo,mlu:cncl",
        "MULTI_MLU",
        _HALF,
        package="torch_mlu",
        install="it is part of Cambricon's PyTorch image and SDK",
        files="cambricon_dev",
        variable="MLU_VISIBLE_DEVICES",
        title="Cambricon MLU",
        called=("cambricon",),
    ),
    PluginDevice(
        "musa",
        "musa",
        "cpu:gloo,musa:mccl",
        "MULTI_MUSA",
        _HALF,
        package="torch_musa",
        install="see https://github.com/MooreThreads/torch_musa",
        files="mtgpu.",
        variable="MUSA_VISIBLE_DEVICES",
        title="Moore Threads GPU",
        called=("mthreads", "moorethreads"),
    ),
    PluginDevice(
        "sdaa",
        "sdaa",
        "cpu:gloo,sdaa:tccl",
        "MULTI_SDAA",
        _HALF,
        package="torch_sdaa",
        install="it is part of Tecorigin's PyTorch image",
        files="tcaicard",
        variable="SDAA_VISIBLE_DEVICES",
        title="Teco SDAA card",
        called=("teco", "tecorigin"),
    ),
    PluginDevice(
        "neuron",
        "neuron",
        "cpu:gloo,neuron:neuron",
        "MULTI_NEURON",
        ("no", "bf16"),
        package="torch_neuronx",
        install="see https://awsdocs-neuron.readthedocs-hosted.com",
        files="neuron",
        title="Trainium chip",
        called=("trainium", "inferentia", "trn"),
        resource="neuron_cores",
        assigned=True,
    ),
)
