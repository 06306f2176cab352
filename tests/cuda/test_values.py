"""Tensors come back from a GPU to the bit, and go from the notebook to each rank's own device."""

from __future__ import annotations

import ast
import re

import pytest

from accelnb.engine.launchers.memory_meter import MemoryMeter

DIGEST = "[hashlib.sha256(t.cpu().view(torch.uint8).numpy().tobytes()).hexdigest() for t in {}]"


@pytest.mark.parametrize("how", ["--out back", "--pull back"])
def test_tensors_of_a_gpu_come_back_on_the_cpu_equal_to_the_bit(ranks, how):
    run = ranks.notebook.run
    run("import hashlib, torch")
    run(
        f"%%distributed --procs 2 --device cuda {how}\nimport hashlib\n"
        "torch.manual_seed(rank)\nx = torch.randn(1000, 70, device=device)\n"
        f"back = [x, x.half(), x.bfloat16(), x.t()]\nsent = {DIGEST.format('back[:3]')}\nback"
    )
    sent = ranks.values("sent")
    came = run(f"[{DIGEST.format('back[r][:3]')} for r in (0, 1)]").value
    assert ast.literal_eval(came) == sent
    assert run("{str(t.device) for r in (0, 1) for t in back[r]}").value == "{'cpu'}"
    # Views of one storage stay views.
    assert run("back[1][0].data_ptr() == back[1][3].data_ptr()").value == "True"


def test_cuda_tensors_of_the_notebook_arrive_on_the_rank_s_own_device(ranks):
    ranks.notebook.run(
        "import torch\nw = torch.arange(6.0, device='cuda').reshape(2, 3)\n"
        "pair = {'all': w, 'row': w[0]}\nnet = torch.nn.Linear(3, 2).cuda()\n"
        "optimizer = torch.optim.SGD(net.parameters(), lr=0.1)\non_cpu = torch.ones(2)"
    )
    assert (
        ranks.values(
            "net(pair['all']).sum().backward(); optimizer.step()\n"
            "(w.device == device, net.weight.device == device, str(on_cpu.device),"
            "\n w.sum().item(),"
            " pair['row'].data_ptr() == pair['all'].data_ptr(),\n"
            " optimizer.param_groups[0]['params'][0] is net.weight)"
        )
        == [(True, True, "cpu", 15.0, True, True)] * 2
    )


def test_status_shows_the_memory_of_each_rank_s_tensors(ranks):
    ranks("held = torch.zeros(64 << 18, device=device)  # 64 MiB")
    said = ranks.notebook.run("%accelnb status").stdout
    shown = re.findall(r"rank \d: pid \d+, .*?([\d,]+) MiB on the device", said)
    assert len(shown) == 2
    assert all(64 <= int(size.replace(",", "")) < 200 for size in shown)


def test_what_the_view_shows_of_device_memory_is_what_the_driver_says(ranks):
    pids = ranks.values("held = torch.zeros(64 << 18, device=device); os.getpid()")
    on_device = [held.on_device for held in MemoryMeter("cuda").read(pids).values()]
    if on_device == [None, None]:
        pytest.skip("NVML does not see the processes of this container")
    assert all(size and size >= 64 << 20 for size in on_device)
