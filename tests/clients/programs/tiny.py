"""What the programs share: sentences, a tokenizer, models of a few thousand weights, the report."""

from __future__ import annotations

import hashlib
import json
import os
import random
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_GOOD = ["good", "great", "bright", "fast", "loved"]
_BAD = ["bad", "awful", "dull", "slow", "hated"]
_WORDS = ["the", "a", "one", "film", "movie", "plot", "actor", "was", "is", "not", "quite", "we"]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<|user|>", "<|assistant|>", "<|end|>"]
_CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + ' <|end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
_MEASURED = ("runtime", "per_second", "flos", "time", "memory")  # no two runs agree on these


def run_cases(*cases: Callable[[Path], dict[str, Any]]) -> None:
    """Run each case with a folder of its own and leave what it returns, or its error, as JSON."""
    root = Path(os.environ["CLIENT_FOLDER"])
    for case in cases:
        folder = root / case.__name__
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        try:
            result = case(folder)
        except Exception:
            result = {"error": traceback.format_exc()}
        rank = os.environ.get("RANK", "0")
        (root / f"{case.__name__}.{rank}.json").write_text(json.dumps(result, default=float))
        if dist.is_initialized():
            dist.barrier()


def sentences(count: int, seed: int) -> dict[str, list[Any]]:
    """Return sentences of 3 to 20 words, and whether each says more good than bad."""
    draw = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        words = draw.choices(_WORDS + _GOOD + _BAD, k=draw.randint(2, 19))
        mood = sum(word in _GOOD for word in words) - sum(word in _BAD for word in words)
        if mood == 0:
            words.append(draw.choice(_GOOD + _BAD))
            mood = 1 if words[-1] in _GOOD else -1
        texts.append(" ".join(words))
        labels.append(int(mood > 0))
    return {"text": texts, "label": labels}


def tokenizer(chat: bool = False) -> Any:
    """Return a tokenizer of whole words; with `chat` one for conversations."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(_SPECIAL + _WORDS + _GOOD + _BAD)}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 64}
    if chat:
        names |= {"bos_token": "[CLS]", "eos_token": "<|end|>"}
    else:
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    if chat:
        wrapped.chat_template = _CHAT
    return wrapped


_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def bert_config(words: Any, dropout: float = 0.1) -> Any:
    from transformers import BertConfig

    dropped = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertConfig(vocab_size=len(words), **dropped, **_SIZES)


def llama(words: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    ends = {"bos_token_id": 2, "eos_token_id": words.eos_token_id}
    config = LlamaConfig(vocab_size=len(words), num_key_value_heads=2, **ends, **_SIZES)
    return LlamaForCausalLM(config)


def tokenized(words: Any, texts: dict[str, list[Any]]) -> Any:
    """Return a dataset of the sentences' tokens and labels."""
    from datasets import Dataset

    columns = {"labels" if name == "label" else name: texts[name] for name in texts}
    return Dataset.from_dict(columns).map(
        lambda rows: words(rows["text"]), batched=True, remove_columns=["text"]
    )


def history(trainer: Any) -> list[dict[str, Any]]:
    """Return what a Trainer logged, without what was measured."""
    return [without_measures(entry) for entry in trainer.state.log_history]


def without_measures(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in entry if not any(m in name for m in _MEASURED)}


def digest(weights: dict[str, Any]) -> list[Any]:
    """Return what tells weights apart: a hash of every bit, and a sum that a person can compare."""
    bits, total = hashlib.sha1(), 0.0
    for name, tensor in sorted(weights.items()):
        if isinstance(tensor, torch.Tensor):
            plain = tensor.detach().cpu().float().contiguous()
            bits.update(name.encode() + plain.numpy().tobytes())
            total += plain.double().abs().sum().item()
    return [bits.hexdigest()[:12], round(total, 6)]


def files(folder: Path, but: Iterable[str] = ()) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in but)
