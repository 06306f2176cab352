"""What is wrong with a device map, a tensor's place or a checkpoint of a big model."""

from __future__ import annotations

from accelnb.errors import AccelnbError


class BigModelError(AccelnbError, ValueError):
    """Something about a model's parts that the user can put right.

    It is a ValueError too, for that is what Accelerate raises in these places.

    Examples
    --------
    >>> from accelnb.utils import OffloadedWeightsLoader
    >>> try:
    ...     OffloadedWeightsLoader()
    ... except ValueError as error:
    ...     print(error)
    OffloadedWeightsLoader: give a state_dict, a save_folder or an index of weights
    """
