"""Trackio: local first, with a dashboard of its own."""

from __future__ import annotations

from accelnb.training.tracking.package import RunTracker


class TrackioTracker(RunTracker):
    """Logs to Trackio, which keeps a database per project in ``TRACKIO_DIR``.

    Parameters
    ----------
    run_name
        The project's name.
    **kwargs
        Of ``trackio.init``.
    """

    name = package = "trackio"
