"""Streamed images as PNG."""

from __future__ import annotations

import base64
import io
import threading
from typing import Any

from accelnb.engine.metrics import Series

_LEAST, _MOST = 128, 320  # pixels of the longer side


def data_url(image: Any) -> str | None:
    """Return an image for an ``<img>``; None if it is none, or Pillow is not installed."""
    data = png(image)
    return None if data is None else f"data:image/png;base64,{base64.b64encode(data).decode()}"


def png(image: Any) -> bytes | None:
    """Return an array or tensor as a PNG; None if it is no image or Pillow is not there."""
    try:
        import numpy
        from PIL import Image
    except ImportError:
        return None
    pixels = numpy.asarray(image.float() if hasattr(image, "is_floating_point") else image)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if not pixels.size or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        return None
    if not str(image.dtype).endswith("uint8") and pixels.max(initial=0) <= 1:
        pixels = pixels * 255  # floating point, from 0 to 1
    whole = Image.fromarray(numpy.nan_to_num(pixels).clip(0, 255).astype("uint8"))
    file = io.BytesIO()
    _resized(whole).save(file, "PNG")
    return file.getvalue()


def _resized(image: Any) -> Any:
    """Return a digit of 8 × 8 pixels large enough to be seen, a photo no larger than that."""
    longest = max(image.size)
    if longest > _MOST:
        image.thumbnail((_MOST, _MOST))
        return image
    scale = max(1, _LEAST // longest)
    return image.resize((image.width * scale, image.height * scale), 0)


class Painter:
    """Makes pictures of streamed images in a thread of its own, which ends when it has none.

    To read an image may take a moment: if it is a tensor, torch is imported for it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards what follows
        self._asked: dict[str, tuple[int, Series]] = {}
        self._drawn: dict[str, tuple[int, dict[str, Any]]] = {}
        self._thread: threading.Thread | None = None

    def draw(self, name: str, version: int, series: Series) -> None:
        """Ask for pictures of each rank's newest image."""
        with self._changed:
            if version in (self._drawn.get(name, (0,))[0], self._asked.get(name, (0,))[0]):
                return
            self._asked[name] = version, series
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._draw_all, name="accelnb-pictures", daemon=True
                )
                self._thread.start()

    def drawn(self, name: str) -> tuple[int, dict[str, Any]]:
        """Return the newest pictures: their version, and by rank the step and the data URL."""
        with self._changed:
            return self._drawn.get(name, (0, {}))

    @property
    def is_busy(self) -> bool:
        return self._thread is not None

    def wait(self, seconds: float) -> None:
        """Wait until all that was asked for is drawn, so many seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._thread is None, seconds)

    def _draw_all(self) -> None:
        while True:
            with self._changed:
                if not self._asked:
                    self._thread = None
                    self._changed.notify_all()
                    return
                name, (version, series) = next(iter(self._asked.items()))
            pictures = _pictures(series)
            with self._changed:
                self._drawn[name] = version, pictures
                if self._asked[name][0] == version:
                    del self._asked[name]


def _pictures(series: Series) -> dict[str, Any]:
    drawn = {}
    for rank in series:
        try:
            step, image, _ = series[rank][-1]
            url = data_url(image)
        except Exception:  # of an image's own class, or its module is not here
            continue
        if url is not None:
            drawn[str(rank)] = [step, url]
    return drawn
