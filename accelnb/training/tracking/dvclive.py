"""DVCLive: plain files beside the code."""

from __future__ import annotations

from typing import Any

from accelnb.training.tracking.base import GeneralTracker, of_kinds, on_main_process, plain
from accelnb.training.tracking.package import load


class DVCLiveTracker(GeneralTracker):
    """Writes metrics and parameters by DVCLive; each `log` is one step.

    Parameters
    ----------
    run_name
        Has no effect: DVC names its experiments itself.
    live
        A ``dvclive.Live`` to use.
    **kwargs
        Of ``dvclive.Live``, if there is none.
    """

    name = "dvclive"
    requires_logging_directory = False

    def __init__(self, run_name: str | None = None, live: Any = None, **kwargs: Any) -> None:
        super().__init__()
        self.live = live
        self.init_kwargs = kwargs

    @on_main_process
    def start(self) -> None:
        if self.live is None:
            self.live = load("dvclive").Live(**self.init_kwargs)

    @property
    def tracker(self) -> Any:
        return self.live

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.live.log_params(plain(values))

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log numbers and strings; `kwargs` are those of ``Live.log_metric``."""
        if step is not None:
            self.live.step = step
        for name, value in of_kinds(self.name, values, int, float, str).items():
            self.live.log_metric(name, value, **kwargs)
        self.live.next_step()

    @on_main_process
    def finish(self) -> None:
        self.live.end()
