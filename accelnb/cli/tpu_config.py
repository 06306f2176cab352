"""``accelnb tpu-config``: what to do on a TPU host."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import rich_click as click

from accelnb.devices import DEVICES
from accelnb.devices.hardware import probe, tpu
from accelnb.devices.hardware.usable_resources import entries


@click.command()
def command() -> None:
    """Say what to do on a TPU host, or that this is none.

    Example: accelnb tpu-config
    """
    for line in advice():
        print(line)


def advice(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield what to do with the TPU of this host, line by line.

    Parameters
    ----------
    root, environ
        The file system and environment to read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from accelnb.cli.tpu_config import advice
    >>> next(advice(Path(tempfile.mkdtemp()), {})).partition(";")[0]
    'This machine has no TPU'
    """
    chips = tpu.count(root, environ, entries(root / "dev"))
    if not chips:
        yield f"This machine has no TPU; it has {probe(root, environ).describe()}."
        if tpu.is_remote(environ):
            yield "The environment names a TPU of another host, which PyTorch no longer supports."
        yield "Take a TPU VM, or a TPU runtime in Colab or Kaggle, and run this there."
        return
    yield f"{chips} chip{'s' * (chips > 1)} of {tpu.name(root, environ)} found."
    hardware = probe(root, environ)
    ready = next((kind for kind in ("tpu", "xla") if hardware.count(kind)), None)
    if ready is None:
        yield f"Not ready: {hardware.why_not('tpu')}"
    else:
        ranks = hardware.count(ready)
        yield f"{DEVICES[ready].package} drives them for torch, with {ranks} ranks at most."
    if environ.get("TPU_WORKER_HOSTNAMES", "").count(","):
        yield "This host is one of several: run the same command on every worker, for instance by"
        yield '  gcloud compute tpus tpu-vm ssh NAME --worker=all --command="python train.py"'
