"""The parts of a model given to devices, one after the other, each as large as still fits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import nn

from accelnb.big_model.max_memory import Budget
from accelnb.big_model.sizes import (
    Named,
    get_max_layer_size,
    modules_inside,
    parts_of,
)
from accelnb.big_model.tied_parts import is_inside, tied_to


class Allocation:
    """A model being given to devices, until nothing of it is left.

    The devices are filled in their order. The first accelerator and the CPU keep room for the
    largest layer to come: it is brought there to compute, if it is offloaded.

    Parameters
    ----------
    sizes
        Bytes of each part by its name.
    tied
        Groups of tied parameters, which stay on one device.
    whole
        Classes of modules that stay on one device.
    fallback
        Where nothing fits on a device in order, look for any part that does.
    say
        Told of each step.

    Attributes
    ----------
    device_map : dict
        The device of each part that has one.
    used : dict
        Bytes of each device that are given away.
    too_small : dict
        The bytes that devices would need to get anything, of those that got nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        memory: Budget,
        sizes: Mapping[str, int],
        tied: Sequence[Sequence[str]],
        whole: Collection[str],
        fallback: bool,
        say: Callable[[str], None],
    ) -> None:
        self.device_map: dict[str, int | str] = {}
        self.too_small: dict[int | str, int] = {}
        self._memory = memory
        self._devices = [*(name for name in memory if name != "disk"), "disk"]
        self.used: dict[int | str, int] = dict.fromkeys(self._devices, 0)
        self._sizes, self._tied, self._whole = sizes, tied, whole
        self._fallback, self._say = fallback, say
        self._left = parts_of(model)
        self._largest, self._largest_names = get_max_layer_size(self._left, sizes, whole)

    @property
    def is_done(self) -> bool:
        """Whether every part has a device."""
        return not self._left

    @property
    def device(self) -> int | str:
        """The device that is being filled."""
        return self._devices[0]

    def step(self) -> None:
        """Give the next part a device, or divide it, or go to the next device."""
        name, part = self._left.pop(0)
        self._say(f"\nTreating {name}.")
        self._largest_names = [it for it in self._largest_names if not is_inside(it, name)]
        if not self._largest_names:
            self._find_largest()
        partners = tied_to(name, self._left, self._tied)
        names = [name, *(key for key, _ in partners)]
        own, size = self._sizes.get(name, 0), self._size_of(names)
        if self.device == "disk":
            self._put(names, size)
            return
        room = self._memory[self.device] - self._reserved() - self.used[self.device]
        if size <= room:
            self._put(names, size)
            return
        self._say(f"Not enough space on {self.device} for {names}: {size} of {room} bytes")
        first = (name, part)
        if own <= room and self._divide_one_of(partners):
            self._left.insert(0, first)
        elif own >= room and modules_inside(part, self._whole):
            self._left = self._divided(first) + self._left
            self._find_largest()
        elif not (self._is_unused() and self._fallback and self._put_another_first(first, size)):
            self._go_on(first, size)

    # ---- what a step does ----

    def _put(self, names: Sequence[str], size: int) -> None:
        self._say(f"Putting {names} on {self.device} ({size} bytes).")
        self.used[self.device] += size
        self.device_map |= dict.fromkeys(names, self.device)
        self._left = [part for part in self._left if part[0] not in names]

    def _divide_one_of(self, partners: Sequence[Named]) -> bool:
        """Divide the first part that can be, of those that are tied to the one in hand."""
        for partner in partners:
            if modules_inside(partner[1], self._whole):
                at = next(i for i, (name, _) in enumerate(self._left) if name == partner[0])
                self._left[at : at + 1] = self._divided(partner)
                self._find_largest()
                return True
        return False

    def _put_another_first(self, first: Named, size: int) -> bool:
        """Look for a part that fits on a device on which nothing is."""
        room = self._memory[self.device] - max(self._largest, size)
        found = part_that_fits(self._left, self._sizes, room, self._whole, self._tied)
        if found is None:
            return False
        part, others = found
        self._left = [part, first, *others]
        return True

    def _go_on(self, first: Named, size: int) -> None:
        self._say(f"{first[0]} cannot be divided: going to the next device.")
        reserved = self._reserved()
        if self._is_unused():
            self.too_small[self.device] = size + reserved
        self.used[self.device] += reserved
        self._devices.pop(0)
        self._left.insert(0, first)

    # ---- what it asks ----

    def _size_of(self, names: Sequence[str]) -> int:
        return sum(self._sizes.get(name, 0) for name in names)

    def _is_unused(self) -> bool:
        return self.used[self.device] == 0

    def _reserved(self) -> int:
        accelerators = [name for name in self._memory if name not in ("cpu", "disk")]
        main = ["mps"] if "mps" in accelerators else [*accelerators[:1], "cpu"]
        return self._largest if self.device in main else 0

    def _find_largest(self) -> None:
        modules: list[Named] = [it for it in self._left if isinstance(it[1], nn.Module)]
        self._largest, self._largest_names = get_max_layer_size(modules, self._sizes, self._whole)

    def _divided(self, part: Named) -> list[Named]:
        name, module = part
        assert isinstance(module, nn.Module)
        self._say(f"Splitting {name}.")
        return parts_of(module, name)


def part_that_fits(
    parts: Sequence[Named],
    sizes: Mapping[str, int],
    room: int,
    whole: Collection[str],
    tied: Sequence[Sequence[str]],
) -> tuple[Named, list[Named]] | None:
    """Return the first part that fits in some bytes with what is tied to it, and all others.

    Parts that do not fit are divided, as far as they can be.
    """
    left = list(parts)
    for at, (name, part) in enumerate(left):
        others = [*left[:at], *left[at + 1 :]]
        names = [name, *(key for key, _ in tied_to(name, others, tied))]
        if sum(sizes.get(key, 0) for key in names) <= room:
            return (name, part), others
        if not modules_inside(part, whole):
            continue
        assert isinstance(part, nn.Module)
        if found := part_that_fits(parts_of(part, name), sizes, room, whole, tied):
            return found[0], [*left[:at], *found[1], *left[at + 1 :]]
    return None
