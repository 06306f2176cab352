"""A run's state as text and as HTML without scripts, which a saved notebook keeps.

GitHub takes away all styles: the order of the elements has to say it all.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from accelnb.engine.metrics import Series
from accelnb.engine.wire.reports import SCALAR
from accelnb.notebook.views.live_view.ansi import to_html
from accelnb.notebook.views.live_view.charts import COLOURS, bar_chart, line_chart
from accelnb.notebook.views.live_view.log import Line
from accelnb.notebook.views.live_view.run_state import RunState
from accelnb.notebook.views.metrics_board import Board

_LINES = 500
_LINES_WITHOUT_BOX = 30
_RANKS_OPEN = 8
_QUIET = "color:var(--jp-ui-font-color2,#767676)"
_TEXT = "font-size:var(--jp-code-font-size,13px)"
_WRAPPED = "white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere"
_LOG = f"margin:0 0 .3em;{_WRAPPED};{_TEXT}"
_BOX = f"{_LOG};max-height:24em;overflow:auto"
_SIGNS = {"done": ("✓", "#2e8b3d"), "failed": ("✗", "#d0463b"), "stopped": ("■", "#b26a00")}
_BANNERS = {"error": "#c62828", "stall": "#b26a00", "note": "#767676"}


def text_of(state: RunState) -> str:
    """Return a run's lines, its values and how it went, as text."""
    lines = state.log.labelled(state.log.beginning_and_end(_LINES))
    lines += [state.log.label(ranks) + text for ranks, text in state.bars.lines()]
    lines += Board(state.run.streamed.scalars(), state.log.label).lines()
    lines += [banner["text"] for banner in state.banners() if banner["kind"] == "stall"]
    return "\n".join([*lines, status_line(state)])


def html_of(state: RunState) -> str:
    """Return a run as HTML that reads well in a notebook, light or dark, and on GitHub."""
    status = _status(state)
    lines = _log(state)
    if not state.is_rich and not state.banners():
        return _whole([lines, status])
    return _whole([status, *_banners(state), _rows(state), *_bars(state), _values(state), lines])


def status_line(state: RunState) -> str:
    """Return e.g. ``done in 12.3 s on 2 cpu ranks, bf16``."""
    count = len(state.run.ranks)
    device = f"{state.config.device} " if state.config.device else ""
    precision = "" if state.config.precision == "no" else f", {state.config.precision}"
    took = f"{state.state} {'in' if state.run.done else 'for'} {_duration(state.run.seconds)}"
    if state.state in ("failed", "stopped"):
        took = f"{state.state} after {_duration(state.run.seconds)}"
    said = f"{took} on {count} {device}rank{'s' * (count != 1)}{precision}"
    if not state.sharing:
        return said
    return f"{said}: {'; '.join([state.sharing, *_memory_at_most(state)])}"


def _memory_at_most(state: RunState) -> list[str]:
    peaks = [peak for rank in state.run.ranks if (peak := state.peak_memory(rank))]
    if not peaks:
        return []
    low, high = _bytes(min(peaks)), _bytes(max(peaks))
    return [f"{high if low == high else f'{low} to {high}'} of memory at most"]


def _status(state: RunState) -> str:
    sign, colour = _SIGNS.get(state.state, ("▸", "#767676"))
    return (
        f'<div style="{_TEXT};{_QUIET}"><span style="color:{colour}">{sign}</span> '
        f"{html.escape(status_line(state))}</div>"
    )


def _whole(parts: Iterable[str]) -> str:
    inner = "".join(part for part in parts if part)
    return f'<div class="accelnb-run" style="padding:0 8px">{inner}</div>'


def _log(state: RunState) -> str:
    lines = state.log.beginning_and_end(_LINES)
    if not lines:
        return ""
    looks = _BOX if len(lines) > _LINES_WITHOUT_BOX else _LOG
    return _pre(looks, (_log_line(state, line) for line in lines)) + _logs_of_ranks(state, lines)


def _logs_of_ranks(state: RunState, lines: Sequence[Line]) -> str:
    """Return what each rank wrote, folded away, if that is hard to see among the others'."""
    ranks = state.run.ranks
    differ = any(0 < len(line.ranks) < len(ranks) for line in lines)
    if not differ or len(ranks) > _RANKS_OPEN or len(lines) <= _LINES_WITHOUT_BOX:
        return ""
    return "".join(
        f"<details><summary>rank {rank}</summary>"
        + _pre(_BOX, (to_html(line.text) for line in lines if rank in line.ranks))
        + "</details>"
        for rank in ranks
    )


def _pre(looks: str, lines: Iterable[str]) -> str:
    shown = "\n".join(lines)
    return f'<pre style="{looks}">{shown}</pre>'


def _log_line(state: RunState, line: Line) -> str:
    label = html.escape(state.log.label(line.ranks))
    label = f'<span style="{_QUIET}">{label}</span>' if label else ""
    text = to_html(line.text)
    if line.stream == "note":
        return f'<span style="{_QUIET}">{text}</span>'
    if line.stream == "stderr":
        text = f'<span style="color:var(--jp-warn-color0,#a36a00)">{text}</span>'
    return label + text


def _banners(state: RunState) -> list[str]:
    return [
        f'<pre style="margin:.3em 0;padding:.2em .6em;{_WRAPPED};{_TEXT};'
        f'border-left:3px solid {_BANNERS[banner["kind"]]}">{to_html(banner["text"])}</pre>'
        for banner in state.banners()
    ]


def _rows(state: RunState) -> str:
    rows = state.rows()
    if not state.values and len({row["state"] for row in rows}) == 1:
        return ""
    columns = {
        "rank": [str(row["rank"]) for row in rows],
        "place": [row["place"] for row in rows],
        "state": [row["state"] for row in rows],
        "step": ["" if row["step"] is None else f"{row['step']:,}" for row in rows],
        "steps/s": ["" if row["rate"] is None else f"{row['rate']:.3g}" for row in rows],
        "memory": [_bytes(state.peak_memory(row["rank"])) for row in rows],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    table = _table(list(shown), zip(*shown.values(), strict=True))
    if len(rows) <= _RANKS_OPEN:
        return table
    return f"<details><summary>{len(rows)} ranks</summary>{table}</details>"


def _bars(state: RunState) -> list[str]:
    shown = []
    for ranks, text in state.bars.lines():
        label = html.escape(state.log.label(ranks))
        shown.append(f'<span style="{_QUIET}">{label}</span>{to_html(text)}')
    if not shown:
        return []
    return [_pre(_LOG, shown)]


def _values(state: RunState) -> str:
    figures = [
        figure
        for series in state.run.streamed.values()
        for figure in _FIGURES[series.kind](state, series)
    ]
    if not figures:
        return ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:.5em 1.5em">{"".join(figures)}</div>'


def _scalar_figures(state: RunState, series: Series) -> list[str]:
    ranks = list(series)
    latest = [series[rank][-1].value for rank in ranks]
    if len(ranks) <= len(COLOURS):
        said = ", ".join(
            f'<span style="color:{colour};font-weight:bold">[{rank}]</span> {value:.5g}'
            for rank, value, colour in zip(ranks, latest, COLOURS, strict=False)
        )
    else:
        mean = sum(latest) / len(latest)
        said = f"{min(latest):.5g} to {max(latest):.5g}, mean {mean:.5g} of {len(ranks)} ranks"
    step = max(series[rank][-1].step for rank in ranks)
    caption = f"<b>{html.escape(series.name)}</b> at step {step:,}: {said}"
    return [_figure(line_chart(series), f"{series.name} over steps", caption)]


def _histogram_figures(state: RunState, series: Series) -> list[str]:
    figures = []
    for rank in list(series)[:_RANKS_OPEN]:
        step, (counts, edges), _ = series[rank][-1]
        caption = f"<b>{html.escape(series.name)}</b> [{rank}] at step {step:,}"
        figures.append(_figure(bar_chart(counts, edges), f"{series.name}, histogram", caption))
    return figures


def _image_figures(state: RunState, series: Series) -> list[str]:
    pictures = state.values.images({}).get(series.name, {})
    return [
        _figure(
            url,
            series.name,
            f"<b>{html.escape(series.name)}</b> [{rank}] at step {step:,}",
            looks=";image-rendering:pixelated",
        )
        for rank, (step, url) in list(pictures.items())[:_RANKS_OPEN]
    ]


def _tensor_figures(state: RunState, series: Series) -> list[str]:
    count = sum(len(points) for points in series.values())
    return [_figure(None, "", f"<b>{html.escape(series.name)}</b> {count} tensors")]


_FIGURES = {
    SCALAR: _scalar_figures,
    "histogram": _histogram_figures,
    "image": _image_figures,
    "tensor": _tensor_figures,
}


def _figure(url: str | None, alt: str, caption: str, looks: str = "") -> str:
    looks = f"display:block;max-width:100%{looks}"
    picture = f'<img src="{url}" alt="{html.escape(alt)}" style="{looks}">' if url else ""
    return (
        f'<figure style="margin:.4em 0">{picture}'
        f'<figcaption style="{_TEXT}">{caption}</figcaption></figure>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def line(tag: str, cells: Iterable[Any]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(str(c))}</{tag}>' for c in cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _bytes(size: int | None) -> str:
    if not size:
        return ""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
