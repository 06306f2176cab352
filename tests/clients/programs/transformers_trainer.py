"""transformers' Trainer: training, evaluation with metrics, checkpoints, and the data it takes."""

from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import (
    BertForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    set_seed,
)

WORDS = tiny.tokenizer()
# Sizes of which no batch size is a divisor: 75 = 9 * 2 * 4 + 3, 37 = 2 * 2 * 8 + 5.
TRAIN = tiny.tokenized(WORDS, tiny.sentences(75, seed=0))
TEST = tiny.tokenized(WORDS, tiny.sentences(37, seed=1))
COMMON = {
    "use_cpu": True,
    "seed": 1,
    "per_device_train_batch_size": 4,
    "learning_rate": 5e-3,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "logging_steps": 3,
}


def metrics(prediction: Any) -> dict[str, float]:
    logits, labels = prediction.predictions, prediction.label_ids
    right = float((logits.argmax(-1) == labels).mean())
    return {"accuracy": right, "count": len(labels), "sum": float(logits.astype("float64").sum())}


def trainer(folder: Path, train: Any = TRAIN, **options: Any) -> Trainer:
    given = COMMON | {"per_device_eval_batch_size": 8, "num_train_epochs": 2} | options
    set_seed(0)
    config = tiny.bert_config(WORDS, dropout=given.pop("dropout", 0.1))
    return Trainer(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(str(folder), eval_strategy=given.pop("eval", "epoch"), **given),
        train_dataset=train,
        eval_dataset=TEST,
        data_collator=DataCollatorWithPadding(WORDS),
        compute_metrics=metrics,
        processing_class=WORDS,
    )


def weights(trained: Trainer) -> list[Any]:
    return tiny.digest(trained.accelerator.unwrap_model(trained.model).state_dict())


def trained(folder: Path, train: Any = TRAIN, **options: Any) -> dict[str, Any]:
    made = trainer(folder, train, **options)
    loss = made.train().training_loss
    evaluation = tiny.without_measures(made.evaluate())
    logits: Any = made.predict(TEST).predictions
    return {
        "steps": made.state.global_step,
        "loss": loss,
        "evaluation": evaluation,
        "predictions": logits.tolist(),
        "history": tiny.history(made),
        "weights": weights(made),
    }


def plain(folder: Path) -> dict[str, Any]:
    return trained(folder)


def accumulation(folder: Path) -> dict[str, Any]:
    options = {"max_grad_norm": 0.5, "lr_scheduler_type": "cosine", "warmup_steps": 2}
    return trained(folder, gradient_accumulation_steps=2, **options)


def bf16(folder: Path) -> dict[str, Any]:
    return trained(folder, bf16=True, num_train_epochs=1)


def resumed(folder: Path) -> dict[str, Any]:
    """An interrupted training that goes on gives what an uninterrupted one gives."""
    steps: dict[str, Any] = {"max_steps": 14, "eval": "steps", "eval_steps": 7}
    whole = trainer(folder, save_strategy="steps", save_steps=7, **steps)
    whole.train()
    checkpoint = folder / "checkpoint-7"
    again = trainer(folder / "again", **steps)
    again.train(resume_from_checkpoint=str(checkpoint))
    return {
        "history": tiny.history(again),
        "weights": weights(again),
        "whole": weights(whole),
        "files": tiny.files(checkpoint),
    }


def grouped_by_length(folder: Path) -> dict[str, Any]:
    """Also how many different samples two epochs have, on ranks that drew different numbers."""
    grouping = {"train_sampling_strategy": "group_by_length"}
    result = trained(folder, **grouping)
    made = trainer(folder, **grouping)
    loader = made.get_train_dataloader()
    torch.manual_seed(made.accelerator.process_index)
    epochs = []
    for _ in range(2):
        mine = [str(row[row > 0].tolist()) for batch in loader for row in batch["input_ids"]]
        epochs.append(len(set(gather_object(mine))))
    return result | {"samples": epochs}


def fully_sharded(folder: Path) -> dict[str, Any]:
    """FSDP2 divides the weights; what is computed is what DDP computes."""
    made = trainer(
        folder,
        fsdp=True,
        fsdp_config={"transformer_layer_cls_to_wrap": ["BertLayer"]},
        max_grad_norm=0.5,
        num_train_epochs=1,
        save_strategy="epoch",
    )
    made.train()
    parameters = list(made.accelerator.unwrap_model(made.model).parameters())
    divided = sum(isinstance(parameter, DTensor) for parameter in parameters)
    saved = load_file(folder / "checkpoint-10" / "model.safetensors")
    return {
        "divided": divided == len(parameters),
        "history": tiny.history(made),
        "saved": {name: list(saved[name].shape) for name in saved},
    }


def padded(rows: dict[str, Any]) -> dict[str, Any]:
    return dict(WORDS.pad(rows, padding="max_length", max_length=24))


def iterable(folder: Path) -> dict[str, Any]:
    """Rank 0 reads, and sends the others their parts: that draws other random numbers."""
    stream = TRAIN.map(padded, batched=True).to_iterable_dataset()
    return trained(folder, stream, max_steps=6, eval="no", dropout=0.0)


def iterable_by_shards(folder: Path) -> dict[str, Any]:
    """Each rank reads its own shard; sentences are as long as they are."""
    stream = TRAIN.to_iterable_dataset(num_shards=2)
    alone = {"dispatch_batches": False}
    return trained(folder, stream, max_steps=6, eval="no", accelerator_config=alone)


def best_model(folder: Path) -> dict[str, Any]:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    return trained(folder, save_strategy="epoch", save_total_limit=1, **best)


def sequence_to_sequence(folder: Path) -> dict[str, Any]:
    """Evaluation generates, and gathers what is generated."""
    words = tiny.tokenizer(chat=True)

    def pairs(count: int, seed: int) -> Any:
        texts = tiny.sentences(count, seed)
        made = tiny.tokenized(words, texts).remove_columns("labels")
        starts = [" ".join(text.split()[:5]) for text in texts["text"]]
        return made.add_column("labels", words(starts)["input_ids"])

    def sums(prediction: Any) -> dict[str, Any]:
        chosen = np.where(prediction.predictions < 0, 0, prediction.predictions)
        return {"sum": int(chosen.sum()), "count": len(chosen)}

    set_seed(0)
    ends = {"pad_token_id": 0, "eos_token_id": words.eos_token_id, "decoder_start_token_id": 0}
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(words), **sizes, **ends))
    generation = {"predict_with_generate": True, "generation_max_length": 12}
    made = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            str(folder), eval_strategy="epoch", num_train_epochs=1, **generation, **COMMON
        ),
        train_dataset=pairs(45, 0),
        eval_dataset=pairs(19, 1),
        data_collator=DataCollatorForSeq2Seq(words, model=model),
        compute_metrics=sums,
        processing_class=words,
    )
    made.train()
    return {"history": tiny.history(made), "weights": weights(made)}


tiny.run_cases(
    plain,
    accumulation,
    bf16,
    resumed,
    grouped_by_length,
    fully_sharded,
    iterable,
    iterable_by_shards,
    best_model,
    sequence_to_sequence,
)
