"""Progress bars inside ranks, as the user of a notebook sees them."""

from __future__ import annotations


def bars_of(output) -> str:
    return "\n".join(display["text/plain"] for display in output.displays)


def test_nested_bars_stand_together_and_what_is_printed_stays_lines(shared_notebook):
    shown = []
    output = shared_notebook.run(
        "%%distributed --procs 2\nimport time\nfrom tqdm.auto import tqdm\n"
        "for epoch in tqdm(range(3), desc='outer'):\n"
        "    for step in tqdm(range(8), desc='inner', leave=False): time.sleep(0.04)\n"
        "    tqdm.write(f'epoch {epoch}')\n"
        "print('done')",
        on_output=lambda output: shown.append(bars_of(output)),
    )
    assert output.lines == ["[0-1] epoch 0", "[0-1] epoch 1", "[0-1] epoch 2", "[0-1] done"]
    assert output.stderr == ""
    both = [text.splitlines() for text in shown if "inner" in text]
    assert any(
        [line.partition(": ")[0] for line in lines] == ["[0-1] outer", "[0-1] inner"]
        for lines in both
    )
    assert bars_of(output).startswith("[0-1] outer: 100%")
    assert bars_of(output).count("\n") == 0  # inner bars vanish; one line for both ranks
    assert not any("\x1b" in text or "\r" in text for text in shown)


def test_bars_for_notebooks_and_of_rich_need_no_widgets(shared_notebook):
    output = shared_notebook.run(
        "%%distributed\nimport time\nfrom rich.progress import Progress\n"
        "from tqdm.notebook import tqdm\n"
        "for _ in tqdm(range(10), desc='cells', ncols='100%'): time.sleep(0.03)\n"
        "with Progress() as progress:\n"
        "    for _ in progress.track(range(10), description='[red]rows'): time.sleep(0.03)\n"
        "    progress.print('from rich')\n"
        "print('done')"
    )
    assert output.lines == ["[0-1] from rich", "[0-1] done"]
    cells, rows = bars_of(output).splitlines()
    assert cells.startswith("[0-1] cells: 100%|")
    assert rows.startswith("[0-1] rows ━")
    assert "100%" in rows
    assert output.stderr == ""


def test_the_log_has_a_bars_last_line_and_only_that(shared_notebook):
    shared_notebook.run(
        "%%distributed --detach --ranks 0\nimport sys, time\nfrom tqdm import tqdm\n"
        "for _ in tqdm(range(10), desc='short'): time.sleep(0.03)\n"
        "print('between', file=sys.stderr)\n"
        "left_open = tqdm(total=5, desc='open'); left_open.update(2); left_open.refresh()"
    )
    log = shared_notebook.run("_.wait(10); print(_.logs(0, 'stderr'))").lines
    assert sorted(line.split(":")[0] for line in log if line) == ["between", "open", "short"]
    assert log.index("between") > 0  # after the bar that had ended
    assert "10/10" in log[0]


def test_a_bar_ends_with_its_cell_whatever_ends_that(shared_notebook):
    failed = shared_notebook.run(
        "%%distributed --procs 2\nimport time\nfrom tqdm import tqdm\n"
        "for i in tqdm(range(20)):\n    time.sleep(0.03)\n    if i == 11: raise ValueError",
        fails=True,
    )
    assert "11/20" in bars_of(failed)
    stopped = shared_notebook.run(
        "%%distributed --timeout 0.5\nfor i in tqdm(range(200)): time.sleep(0.02)", fails=True
    )
    assert "/200" in bars_of(stopped)
    killed = shared_notebook.run(
        "%%distributed --ranks 0\nimport os\nfor i in tqdm(range(20)):\n    time.sleep(0.03)\n"
        "    if i == 11: os.kill(os.getpid(), 9)",
        fails=True,
    )
    assert "/20" in bars_of(killed)
    after = shared_notebook.run("%%distributed\nimport gc; gc.collect(); print('after')")
    assert (after.lines, after.displays) == (["[0-1] after"], [])
    assert "%|" not in after.stderr


def test_a_bar_that_only_shows_the_time_does_not_hide_a_stall(shared_notebook):
    output = shared_notebook.run(
        "%%distributed --procs 2 --stall 0.6 --timeout 2\nimport torch.distributed as dist\n"
        "from rich.progress import Progress, SpinnerColumn\n"
        "with Progress(SpinnerColumn()) as progress:\n"
        "    progress.add_task('waits', total=None)\n"
        "    if rank == 0: dist.barrier()",
        fails=True,
    )
    assert "rank 0: barrier" in output.stderr
