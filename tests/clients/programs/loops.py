"""Training loops written against Accelerate: transformers' examples without a Trainer, peft."""

import json
import math
from pathlib import Path
from typing import Any

import tiny
import torch
import torchmetrics
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import set_seed
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from torch.utils.data import DataLoader
from transformers import (
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    LlamaForCausalLM,
    get_scheduler,
)

LOGGER = get_logger(__name__)


def fresh_accelerator(**options: Any) -> Accelerator:
    """Return an Accelerator as in a process of its own: the cases share one."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(**options)


class Classification:
    """The objects of transformers' text-classification example, prepared."""

    def __init__(self, folder: Path, steps: int = 1, precision: str = "no") -> None:
        self.steps = steps
        self.accelerator = fresh_accelerator(
            mixed_precision=precision, log_with="tensorboard", project_dir=str(folder)
        )
        set_seed(42)
        words = tiny.tokenizer()
        model = BertForSequenceClassification(tiny.bert_config(words))
        with self.accelerator.main_process_first():
            train = tiny.tokenized(words, tiny.sentences(75, seed=0))
            test = tiny.tokenized(words, tiny.sentences(37, seed=1))
        collate = DataCollatorWithPadding(words)
        loader = DataLoader(train, shuffle=True, collate_fn=collate, batch_size=4)
        tests = DataLoader(test, collate_fn=collate, batch_size=8)
        optimizer = torch.optim.AdamW(_groups(model), lr=5e-3)
        length = 2 * math.ceil(len(loader) / steps)
        schedule = get_scheduler("linear", optimizer, 2, num_training_steps=length)
        prepared = self.accelerator.prepare(model, optimizer, loader, tests, schedule)
        self.model, self.optimizer, self.loader, self.tests, self.schedule = prepared
        self.accelerator.init_trackers("text_classification", {"steps": steps})
        self.losses: list[float] = []
        self.accuracies: list[list[Any]] = []

    def train(self, epochs: range, skip: int = 0, save_at: int = -1, folder: Any = None) -> None:
        for epoch in epochs:
            self.model.train()
            loader = self.loader
            if skip and epoch == epochs.start:
                loader = self.accelerator.skip_first_batches(loader, skip)
            for step, batch in enumerate(loader):
                loss = self.model(**batch).loss
                self.losses.append(loss.item())
                self.accelerator.backward(loss / self.steps)
                if step % self.steps == 0 or step == len(loader) - 1:
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()
                if len(self.losses) == save_at:
                    self.accelerator.save_state(str(folder / f"step_{save_at}"))
            self.evaluate()
            LOGGER.info(f"epoch {epoch}: {self.accuracies[-1]}")
            self.accelerator.log({"accuracy": self.accuracies[-1][0]}, step=epoch)
            if save_at > 0:
                self.accelerator.save_state(str(folder / f"epoch_{epoch}"))

    def evaluate(self) -> None:
        """Count as the examples did before `gather_for_metrics`, and as they do now."""
        self.model.eval()
        older, newer = [], []
        for step, batch in enumerate(self.tests):
            with torch.no_grad():
                chosen = self.model(**batch).logits.argmax(-1)
            right = chosen == batch["labels"]
            everyone: Any = self.accelerator.gather(right)
            if step == len(self.tests) - 1:
                everyone = everyone[: len(self.tests.dataset) - len(older)]
            once: Any = self.accelerator.gather_for_metrics(right)
            older += everyone.tolist()
            newer += once.tolist()
        self.accuracies.append([sum(newer) / len(newer), len(newer), older == newer])

    def report(self, folder: Path) -> dict[str, Any]:
        self.accelerator.wait_for_everyone()
        plain = self.accelerator.unwrap_model(self.model)
        plain.save_pretrained(
            folder / "final",
            is_main_process=self.accelerator.is_main_process,
            save_function=self.accelerator.save,
        )
        self.accelerator.wait_for_everyone()
        for tracker in self.accelerator.trackers:
            tracker.finish()
        return {
            "losses": self.losses,
            "accuracies": self.accuracies,
            "rates": self.schedule.get_last_lr(),
            "weights": tiny.digest(plain.state_dict()),
            "files": tiny.files(folder / "final"),
        }


def _groups(model: Any) -> list[dict[str, Any]]:
    decays = {True: [], False: []}
    for name, parameter in model.named_parameters():
        decays["bias" not in name and "LayerNorm" not in name].append(parameter)
    return [
        {"params": decays[True], "weight_decay": 0.01},
        {"params": decays[False], "weight_decay": 0.0},
    ]


def classification(folder: Path) -> dict[str, Any]:
    loop = Classification(folder)
    loop.train(range(2))
    return loop.report(folder)


def classification_accumulating(folder: Path) -> dict[str, Any]:
    loop = Classification(folder, steps=3)
    loop.train(range(2))
    return loop.report(folder)


def classification_bf16(folder: Path) -> dict[str, Any]:
    loop = Classification(folder, precision="bf16")
    loop.train(range(1))
    return loop.report(folder)


def classification_resumed(folder: Path) -> dict[str, Any]:
    """Two ways to go on: within the first epoch, and after it."""
    whole = Classification(folder)
    whole.train(range(2), save_at=4, folder=folder)
    reports = {"whole": whole.report(folder)}
    for checkpoint, skip, epochs in (("step_4", 4, range(2)), ("epoch_0", 0, range(1, 2))):
        loop = Classification(folder)
        loop.accelerator.load_state(str(folder / checkpoint))
        loop.train(epochs, skip)
        reports[checkpoint] = loop.report(folder)
    reports["files"] = tiny.files(folder / "step_4")
    return reports


def lora(folder: Path, steps: int = 1, precision: str = "no") -> dict[str, Any]:
    """peft's adapters in a loop; saved, read again, and trained with the weights of all."""
    accelerator = fresh_accelerator(gradient_accumulation_steps=steps, mixed_precision=precision)
    words = tiny.tokenizer(chat=True)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    adapters = LoraConfig(task_type=TaskType.CAUSAL_LM, **options)
    model: Any = get_peft_model(tiny.llama(words), adapters)
    texts = tiny.tokenized(words, tiny.sentences(41, seed=0)).remove_columns("labels")
    collate = DataCollatorForLanguageModeling(words, mlm=False)
    set_seed(0)
    loader = DataLoader(texts, shuffle=True, batch_size=4, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = get_scheduler("linear", optimizer, 0, num_training_steps=2 * len(loader))
    model, loader, optimizer, schedule = accelerator.prepare(model, loader, optimizer, schedule)
    losses = []
    for _ in range(2):
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                losses.append(loss.item())
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    plain = accelerator.unwrap_model(model)
    plain.save_pretrained(
        folder / "adapters",
        state_dict=accelerator.get_state_dict(model),
        is_main_process=accelerator.is_main_process,
        save_function=accelerator.save,
    )
    accelerator.save_state(str(folder / "state"))
    accelerator.wait_for_everyone()
    accelerator.load_state(str(folder / "state"))
    back = PeftModel.from_pretrained(tiny.llama(words), folder / "adapters")
    config = json.loads((folder / "adapters" / "adapter_config.json").read_text())
    return {
        "losses": losses,
        "adapters": tiny.digest(get_peft_model_state_dict(plain)),
        "read": tiny.digest(get_peft_model_state_dict(back)),
        "config": config | {"target_modules": sorted(config["target_modules"])},  # peft saves a set
    }


def lora_bf16(folder: Path) -> dict[str, Any]:
    return lora(folder, steps=2, precision="bf16")


def metrics(folder: Path) -> dict[str, Any]:
    """torchmetrics gather by themselves, or get what was gathered for metrics."""
    accelerator = fresh_accelerator()
    draws = torch.Generator().manual_seed(0)
    rows = torch.rand(37, 2, generator=draws)
    loader = accelerator.prepare(DataLoader(torch.utils.data.TensorDataset(rows), 4))
    together = torchmetrics.MetricCollection(
        [torchmetrics.Accuracy("binary"), torchmetrics.AUROC("binary")]
    )
    gathered = torchmetrics.Accuracy("binary", sync_on_compute=False)
    for (batch,) in loader:
        together.update(batch[:, 0], batch[:, 1].round().int())
        chosen, truth = accelerator.gather_for_metrics((batch[:, 0], batch[:, 1].round().int()))
        gathered.update(chosen, truth)
    seen = gathered.tp + gathered.fp + gathered.tn + gathered.fn
    by_hand = ((rows[:, 0] > 0.5) == (rows[:, 1].round() == 1)).float().mean().item()
    return {
        "together": {name: value.item() for name, value in together.compute().items()},
        "gathered": gathered.compute().item(),
        "by_hand": by_hand,
        "seen": int(seen),
    }


def generation(folder: Path) -> dict[str, Any]:
    """A saved model whose device map has parts on the CPU and on disk generates as the whole."""
    words = tiny.tokenizer(chat=True)
    whole = tiny.llama(words)
    accelerator = fresh_accelerator()
    if accelerator.is_main_process:
        whole.save_pretrained(folder)
    accelerator.wait_for_everyone()
    disk = folder / f"disk_{accelerator.process_index}"
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    parts = LlamaForCausalLM.from_pretrained(folder, device_map=places, offload_folder=disk)
    automatic = LlamaForCausalLM.from_pretrained(folder, device_map="auto")
    prompt = torch.tensor([[2, 8, 9, 10]])
    how = {"max_new_tokens": 8, "do_sample": False}
    said = [model.generate(prompt, **how).tolist() for model in (whole, parts, automatic)]
    return {"said": said, "same": said[0] == said[1] == said[2], "map": parts.hf_device_map}


tiny.run_cases(
    classification,
    classification_accumulating,
    classification_bf16,
    classification_resumed,
    lora,
    lora_bf16,
    metrics,
    generation,
)
