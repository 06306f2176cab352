"""Which devices an environment variable makes visible, as CUDA, HIP and Level Zero read it."""

from __future__ import annotations

from collections.abc import Sequence


def count_visible(listed: str | None, present: int) -> int:
    """Return how many of `present` devices are visible, whose UUIDs are not known.

    Parameters
    ----------
    listed
        The value of a variable such as ``CUDA_VISIBLE_DEVICES``, None if it is not set.

    Examples
    --------
    >>> from accelnb.devices.hardware.visible_devices import count_visible
    >>> count_visible("2,0", present=4)
    2
    >>> count_visible("0,-1,1", present=4)  # what is behind a wrong entry does not count
    1
    >>> count_visible("MIG-7f3e,MIG-81aa", present=1)  # CUDA gives a process one MIG instance
    1
    """
    if listed is None:
        return present
    seen: list[str] = []
    for part in (part.strip() for part in listed.split(",")):
        if part.startswith("MIG-") and not seen:
            return min(present, 1)
        by_uuid = part.startswith("GPU-")
        if not by_uuid and not (part.isdecimal() and int(part) < present):
            break
        seen.append(part if by_uuid else str(int(part)))
    if len(set(seen)) < len(seen):
        return 0  # CUDA shows nothing if a device is named twice
    return min(present, len(seen))


def visible(listed: str | None, uuids: Sequence[str]) -> list[int]:
    """Return the indices of the visible devices, in the order that they are given.

    Parameters
    ----------
    listed
        As for `count_visible`; a UUID may be cut short.
    uuids
        Of each device.

    Examples
    --------
    >>> from accelnb.devices.hardware.visible_devices import visible
    >>> visible("GPU-b,0", uuids=["GPU-a1", "GPU-b2"])
    [1, 0]
    """
    if listed is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for part in (part.strip() for part in listed.split(",")):
        same = [at for at, uuid in enumerate(uuids) if part and uuid.startswith(part)]
        if part.isdecimal() and int(part) < len(uuids):
            found.append(int(part))
        elif len(same) == 1:
            found.append(same[0])
        else:
            break
    return found if len(set(found)) == len(found) else []
