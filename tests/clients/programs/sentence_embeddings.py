"""sentence-transformers' trainer, with losses that compare pairs and losses that need others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch.distributed as dist
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    models,
)
from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator
from transformers import BertModel, set_seed

WORDS = tiny.tokenizer()
ONE, OTHER = tiny.sentences(50, seed=0), tiny.sentences(50, seed=1)
PAIRS = Dataset.from_dict({"one": ONE["text"], "other": OTHER["text"]})
SCORES = [float(a == b) for a, b in zip(ONE["label"], OTHER["label"], strict=True)]


def model(folder: Path) -> SentenceTransformer:
    """Return one that was read from files, as sentence-transformers wants it."""
    set_seed(0)
    if not dist.is_initialized() or dist.get_rank() == 0:
        BertModel(tiny.bert_config(WORDS)).save_pretrained(folder / "bert")
        WORDS.save_pretrained(folder / "bert")
    if dist.is_initialized():
        dist.barrier()
    words = models.Transformer(str(folder / "bert"), max_seq_length=32)
    pooling = models.Pooling(words.get_word_embedding_dimension())
    return SentenceTransformer(modules=[words, pooling], device="cpu")


class Recording(SentenceTransformerTrainer):
    """Keeps the loss of each batch that is evaluated on this rank."""

    def prediction_step(self, *args: Any, **options: Any) -> Any:
        result = super().prediction_step(*args, **options)
        self.evaluated = [*getattr(self, "evaluated", []), float(result[0])]  # pyright: ignore
        return result


def trained(
    folder: Path, loss: Callable[[SentenceTransformer], Any], data: Dataset, **options: Any
) -> dict[str, Any]:
    arguments = SentenceTransformerTrainingArguments(
        str(folder),
        use_cpu=True,
        seed=1,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        max_steps=6,
        learning_rate=5e-3,
        logging_steps=2,
        report_to=[],
        save_strategy="steps",
        save_steps=3,
        eval_strategy="steps",
        eval_steps=3,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    embeddings = model(folder)
    trainer = Recording(
        model=embeddings,
        args=arguments,
        train_dataset=data,
        eval_dataset=data.select(range(13)),
        loss=loss(embeddings),
        evaluator=EmbeddingSimilarityEvaluator(ONE["text"], OTHER["text"], SCORES, name="dev"),
    )
    result = trainer.train().training_loss
    return {
        "loss": result,
        "history": tiny.history(trainer),
        "weights": tiny.digest(embeddings.state_dict()),
        "evaluated": trainer.evaluated,
        "files": tiny.files(folder / "checkpoint-3"),
    }


def similarity(folder: Path) -> dict[str, Any]:
    scored = PAIRS.add_column("score", SCORES)
    return trained(folder, losses.CosineSimilarityLoss, scored)


def negatives_in_the_batch(folder: Path) -> dict[str, Any]:
    return trained(folder, losses.MultipleNegativesRankingLoss, PAIRS)


def negatives_of_all_ranks(folder: Path) -> dict[str, Any]:
    def loss(embeddings: SentenceTransformer) -> Any:
        return losses.MultipleNegativesRankingLoss(embeddings, gather_across_devices=True)

    return trained(folder, loss, PAIRS)


def no_duplicates(folder: Path) -> dict[str, Any]:
    ranking = losses.MultipleNegativesRankingLoss
    return trained(folder, ranking, PAIRS, batch_sampler="no_duplicates")


tiny.run_cases(similarity, negatives_in_the_batch, negatives_of_all_ranks, no_duplicates)
