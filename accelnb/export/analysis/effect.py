"""What code does to what is there already: which objects it changes, which settings."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass
class Effect:
    """What a statement, or a function when it is called, does beside binding names.

    Attributes
    ----------
    changes : set of str
        Names whose values it may change in place, or bind anew by a function that it calls.
    surely : set of str
        Of these, what its text says: an assignment to a part, a method such as ``append``.
    rebinds : set of str
        Names that a function declares global, so that it may bind them.
    holds : set of (str, str)
        For a name that it binds or changes, the names whose values become a part of it, or of
        whose values it becomes a part.
    is_setting : bool
        Whether it changes what all code shares: the environment, a library, random seeds.
    seeds : bool
        Whether it seeds random numbers.
    settings : set of str
        Imported names of which it changes a part, ``os`` for ``os.environ["A"] = "1"``.
    writes : bool
        Whether it changes files.
    draws_numbers : bool
        Whether it may draw random numbers of the process.
    """

    changes: set[str] = field(default_factory=set)
    surely: set[str] = field(default_factory=set)
    rebinds: set[str] = field(default_factory=set)
    holds: set[tuple[str, str]] = field(default_factory=set)
    is_setting: bool = False
    seeds: bool = False
    settings: set[str] = field(default_factory=set)
    writes: bool = False
    draws_numbers: bool = False

    def take(self, other: Effect) -> None:
        """Have what another does done, too."""
        for name in (one.name for one in fields(self)):
            setattr(self, name, getattr(self, name) | getattr(other, name))

    def change(self, names: set[str], *, surely: bool) -> None:
        self.changes |= names
        if surely:
            self.surely |= names
