"""trl's trainers and peft under transformers' Trainer, on a small Llama."""

from pathlib import Path
from typing import Any

import tiny
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

WORDS = tiny.tokenizer(chat=True)
TEXTS = tiny.sentences(41, seed=0)
ADAPTERS = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
COMMON = {
    "use_cpu": True,
    "seed": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "max_steps": 6,
    "learning_rate": 5e-3,
    "logging_steps": 2,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "bf16": False,
    "gradient_checkpointing": False,
}


def said(who: str, texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": who, "content": text}] for text in texts]


def answers(right: bool) -> list[str]:
    return ["good" if label == right else "bad" for label in TEXTS["label"]]


PROMPTS = said("user", TEXTS["text"])
CHOSEN, REJECTED = said("assistant", answers(True)), said("assistant", answers(False))


def report(trainer: Any) -> dict[str, Any]:
    loss = trainer.train().training_loss
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    plain = trainer.accelerator.unwrap_model(trainer.model)
    weights = tiny.digest(plain.state_dict())
    return {"loss": loss, "history": tiny.history(trainer), "weights": weights}


def lora(folder: Path) -> dict[str, Any]:
    """Adapters by transformers' Trainer, and a training that goes on from a checkpoint."""
    texts = tiny.tokenized(WORDS, TEXTS).remove_columns("labels")

    def trainer(name: str, **options: Any) -> Trainer:
        model = tiny.llama(WORDS)
        set_seed(0)
        return Trainer(
            model=get_peft_model(model, ADAPTERS),
            args=TrainingArguments(str(folder / name), **COMMON | options),
            train_dataset=texts,
            data_collator=DataCollatorForLanguageModeling(WORDS, mlm=False),
            processing_class=WORDS,
        )

    whole = report(trainer("whole", save_strategy="steps", save_steps=4))
    again = trainer("again")
    again.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-4"))
    weights = tiny.digest(again.accelerator.unwrap_model(again.model).state_dict())
    return whole | {"resumed": weights, "files": tiny.files(folder / "whole" / "checkpoint-4")}


def sft(folder: Path, adapters: Any = None, **options: Any) -> dict[str, Any]:
    talks = [[*prompt, *answer] for prompt, answer in zip(PROMPTS, CHOSEN, strict=True)]
    data = Dataset.from_dict({"messages": talks})
    trainer = SFTTrainer(
        model=tiny.llama(WORDS),
        args=SFTConfig(str(folder), max_length=64, **COMMON | options),
        train_dataset=data,
        eval_dataset=data.select(range(9)),
        processing_class=WORDS,
        peft_config=adapters,
    )
    return report(trainer)


def sft_packed(folder: Path) -> dict[str, Any]:
    packing = {"packing": True, "packing_strategy": "wrapped"}
    return sft(folder, gradient_accumulation_steps=2, **packing)


def sft_lora(folder: Path) -> dict[str, Any]:
    return sft(folder, adapters=ADAPTERS)


def dpo(folder: Path, adapters: Any = None, **options: Any) -> dict[str, Any]:
    data = Dataset.from_dict({"prompt": PROMPTS, "chosen": CHOSEN, "rejected": REJECTED})
    trainer = DPOTrainer(
        model=tiny.llama(WORDS),
        ref_model=None if adapters else tiny.llama(WORDS),
        args=DPOConfig(str(folder), max_length=64, **COMMON | options),
        train_dataset=data,
        eval_dataset=data.select(range(9)),
        processing_class=WORDS,
        peft_config=adapters,
    )
    return report(trainer)


def dpo_lora(folder: Path) -> dict[str, Any]:
    return dpo(folder, adapters=ADAPTERS)


def dpo_moving_reference(folder: Path) -> dict[str, Any]:
    return dpo(folder, sync_ref_model=True, ref_model_sync_steps=2)


def reward(folder: Path) -> dict[str, Any]:
    set_seed(0)
    config = tiny.llama(WORDS).config
    config.num_labels = 1
    chosen = [[*prompt, *answer] for prompt, answer in zip(PROMPTS, CHOSEN, strict=True)]
    rejected = [[*prompt, *answer] for prompt, answer in zip(PROMPTS, REJECTED, strict=True)]
    data = Dataset.from_dict({"chosen": chosen, "rejected": rejected})
    trainer = RewardTrainer(
        model=LlamaForSequenceClassification(config),
        args=RewardConfig(str(folder), max_length=64, **COMMON),
        train_dataset=data,
        eval_dataset=data.select(range(9)),
        processing_class=WORDS,
    )
    return report(trainer)


def grpo(folder: Path) -> dict[str, Any]:
    def different_words(completions: list[Any], **_: Any) -> list[float]:
        return [float(len(set(answer[0]["content"].split()))) for answer in completions]

    options = {"num_generations": 4, "max_completion_length": 8, "max_steps": 2}
    trainer = GRPOTrainer(
        model=tiny.llama(WORDS),
        reward_funcs=different_words,
        args=GRPOConfig(str(folder), **COMMON | options),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=WORDS,
    )
    return report(trainer)


tiny.run_cases(lora, sft, sft_packed, sft_lora, dpo, dpo_lora, dpo_moving_reference, reward, grpo)
