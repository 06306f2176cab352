"""Models quantized by bitsandbytes: values, files, device maps, training, transformers' own way."""

from __future__ import annotations

import pytest
import torch
from ranks import on_ranks
from torch import nn

import accelnb.compat.accelerate  # noqa: F401  -- before what imports accelerate
from accelnb import Accelerator, AccelnbError, init_empty_weights
from accelnb.utils import (
    BnbQuantizationConfig,
    has_4bit_bnb_layers,
    load_and_quantize_model,
    load_checkpoint_in_model,
)

bitsandbytes = pytest.importorskip("bitsandbytes")
transformers = pytest.importorskip("transformers")

EIGHT = {"load_in_8bit": True, "torch_dtype": torch.float32}
FOUR = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "fp32",
    "bnb_4bit_use_double_quant": True,
}
TOKENS = torch.arange(24).view(2, 12) % 64


def llama(seed: int = 0) -> nn.Module:
    """Make a tiny Llama; it has the same values each time."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return transformers.LlamaForCausalLM(config).eval()


def empty_llama() -> nn.Module:
    with init_empty_weights():
        model = llama()
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """Return where the weights of the tiny Llama are, in several files."""
    path = tmp_path_factory.mktemp("weights")
    llama().save_pretrained(path, max_shard_size="50KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    return str(path)


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(TOKENS).logits.float()


def by_hand(bits: dict) -> nn.Module:
    """Quantize each linear layer but the head with bitsandbytes alone."""
    model = llama()
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or name == "lm_head":
            continue
        sizes = layer.in_features, layer.out_features, False
        if "load_in_8bit" in bits:
            new = bitsandbytes.nn.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0)
        else:
            new = bitsandbytes.nn.Linear4bit(*sizes, torch.float32, quant_type="nf4")
            new.support_avx512bf16_for_cpu = False  # or it rounds its scales when it evaluates
        new.load_state_dict(layer.state_dict())
        model.set_submodule(name, new.to("cpu"))
    return model.eval()


@pytest.mark.parametrize("bits", [EIGHT, FOUR], ids=["8 bits", "4 bits"])
def test_a_model_from_files_computes_what_bitsandbytes_alone_does(folder, bits):
    model = load_and_quantize_model(
        empty_llama(), BnbQuantizationConfig(**bits), weights_location=folder
    )
    assert torch.equal(logits(model.eval()), logits(by_hand(bits)))
    assert has_4bit_bnb_layers(model) == ("load_in_4bit" in bits)
    assert type(model.lm_head) is nn.Linear


@pytest.mark.parametrize("bits", [EIGHT, FOUR], ids=["8 bits", "4 bits"])
def test_a_model_with_values_is_quantized_in_place(bits):
    model = llama()
    assert load_and_quantize_model(model, BnbQuantizationConfig(**bits)) is model
    assert torch.equal(logits(model.eval()), logits(by_hand(bits)))


def test_what_is_left_out_has_the_dtype_that_was_asked_for(folder):
    config = BnbQuantizationConfig(
        load_in_8bit=True,
        torch_dtype="bf16",
        skip_modules=["lm_head", "layers.0"],
        keep_in_fp32_modules=["norm"],
    )
    model = load_and_quantize_model(empty_llama(), config, weights_location=folder)
    first, second = model.model.layers
    assert first.mlp.up_proj.weight.dtype == model.lm_head.weight.dtype == torch.bfloat16
    assert model.model.norm.weight.dtype == torch.float32
    assert second.mlp.up_proj.weight.dtype == torch.int8
    assert config.skip_modules == ["lm_head", "layers.0"], "the caller's own"


@pytest.mark.parametrize("bits", [EIGHT, FOUR], ids=["8 bits", "4 bits"])
def test_saved_weights_are_loaded_as_they_are(folder, tmp_path, bits):
    config = BnbQuantizationConfig(**bits)
    model = load_and_quantize_model(empty_llama(), config, weights_location=folder)
    expected = logits(model.eval())
    Accelerator().save_model(model, tmp_path)
    again = load_and_quantize_model(empty_llama(), config, weights_location=tmp_path)
    assert torch.equal(logits(again.eval()), expected)
    other = load_and_quantize_model(llama(seed=1), config).eval()
    assert not torch.equal(logits(other), expected)
    load_checkpoint_in_model(other, tmp_path, strict=True)
    assert torch.equal(logits(other), expected)


def test_wrong_files_are_refused_before_the_model_is_changed(folder, tmp_path):
    eight, four = BnbQuantizationConfig(**EIGHT), BnbQuantizationConfig(**FOUR)
    quantized = load_and_quantize_model(empty_llama(), eight, weights_location=folder)
    Accelerator().save_model(quantized, tmp_path)
    model = empty_llama()
    with pytest.raises(AccelnbError, match=r"q_proj\.weight is quantized already, in another way"):
        load_and_quantize_model(model, four, weights_location=tmp_path)
    with pytest.raises(AccelnbError, match="weights_location=None"):
        load_and_quantize_model(model, four)
    model.extra = nn.Linear(2, 2, device="meta")
    with pytest.raises(AccelnbError, match=r"there is no extra\.weight, extra\.bias"):
        load_and_quantize_model(model, four, weights_location=folder)
    assert all(it.is_meta for it in model.parameters())
    assert not any("bitsandbytes" in type(part).__module__ for part in model.modules())


def test_layers_of_8_bits_come_from_disk_when_they_compute(folder, tmp_path):
    config = BnbQuantizationConfig(**EIGHT)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {"model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    model = load_and_quantize_model(
        empty_llama(), config, folder, device_map=places, offload_folder=tmp_path
    )
    assert model.model.layers[1].mlp.up_proj.weight.is_meta
    for _ in range(2):
        assert torch.equal(logits(model.eval()), logits(by_hand(EIGHT)))
    assert model.model.layers[1].mlp.up_proj.weight.is_meta


def test_layers_of_4_bits_on_disk_are_not_quantized(folder, tmp_path):
    config = BnbQuantizationConfig(**FOUR)
    whole = {"": "disk"}
    with pytest.raises(AccelnbError, match="only layers of 8 bits"):
        load_and_quantize_model(empty_llama(), config, folder, whole, offload_folder=tmp_path)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {"model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    model = load_and_quantize_model(
        empty_llama(), config, folder, device_map=places, offload_folder=tmp_path
    )
    assert isinstance(model.model.layers[0].mlp.up_proj, bitsandbytes.nn.Linear4bit)
    assert type(model.model.layers[1].mlp.up_proj) is nn.Linear
    assert torch.isfinite(logits(model.eval())).all()


def test_a_map_is_made_with_the_sizes_in_few_bits(folder, tmp_path):
    config = BnbQuantizationConfig(**EIGHT)
    model = load_and_quantize_model(
        empty_llama(),
        config,
        folder,
        device_map="auto",
        max_memory={"cpu": "80KB"},
        no_split_module_classes=["LlamaDecoderLayer"],
        offload_folder=tmp_path,
    )
    places = set(model.hf_device_map.values())
    assert places == {"cpu", "disk"}
    assert torch.equal(logits(model.eval()), logits(by_hand(EIGHT)))


@pytest.mark.parametrize("bits", [4, 8])
def test_transformers_quantizes_under_the_shim(folder, bits):
    config = transformers.BitsAndBytesConfig(
        **{f"load_in_{bits}bit": True},
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    llama().save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map={"": "cpu"}, dtype=torch.float32
    )
    expected = by_hand(EIGHT if bits == 8 else FOUR)
    assert torch.allclose(logits(model.eval()), logits(expected), atol=1e-2)


# ---- training ----


class Adapted(nn.Module):
    """A layer with a small trainable part beside it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 4, bias=False)
        self.up = nn.Linear(4, base.out_features, bias=False)

    def forward(self, inputs):
        return self.base(inputs) + self.up(self.down(inputs))


def trained(bits: dict, folder: str, differing: bool = False) -> tuple[list[float], float]:
    """Train adapters on a quantized model; return the losses, and how far loading is off."""
    accelerator = Accelerator()
    rank, ranks = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(rank if differing else 0)
    layers = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Linear(64, 2)
    model = load_and_quantize_model(nn.Sequential(*layers), BnbQuantizationConfig(**bits))
    model.requires_grad_(False)
    torch.manual_seed(1)
    model[0], model[2] = Adapted(model[0]), Adapted(model[2])
    adapters = [it for it in model.parameters() if it.requires_grad]
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(adapters, 0.1))
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(8, 64, generator=generator)[rank::ranks]
    targets = torch.randint(0, 2, (8,), generator=generator)[rank::ranks]
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.gather(loss.detach()).mean().item())
    model.eval()
    with torch.no_grad():
        before = model(inputs)
        accelerator.save_state(folder)
        for tensor in accelerator.unwrap_model(model).state_dict().values():
            getattr(tensor, "to_local", lambda tensor=tensor: tensor)().zero_()
        accelerator.load_state(folder)
        return losses, (model(inputs) - before).abs().max().item()


@pytest.mark.parametrize("bits", [EIGHT, FOUR], ids=["8 bits", "4 bits"])
def test_adapters_train_alike_on_two_ranks_and_one(tmp_path, bits):
    losses, off = trained(bits, str(tmp_path / "alone"))
    assert losses[-1] < losses[0]
    assert off == 0
    strategies = ["ddp", "fsdp"] if "load_in_4bit" in bits else ["ddp"]
    for strategy in strategies:
        for its, off in on_ranks(trained, bits, str(tmp_path / strategy), strategy=strategy):
            assert its == pytest.approx(losses, abs=1e-5)
            assert off == 0


def test_ranks_begin_with_the_quantized_weights_of_the_first(tmp_path):
    losses, _ = trained(FOUR, str(tmp_path / "alone"))
    for its, _ in on_ranks(trained, FOUR, str(tmp_path / "ddp"), True, strategy="ddp"):
        assert its == pytest.approx(losses, abs=1e-5)


def test_weights_of_8_bits_are_not_divided(tmp_path):
    with pytest.raises(Exception, match=r"only those of 4 bits \(bitsandbytes\)"):
        on_ranks(trained, EIGHT, str(tmp_path), strategy="fsdp")


def test_a_model_that_is_offloaded_is_not_trained(folder, tmp_path):
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {"model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    model = load_and_quantize_model(
        empty_llama(), BnbQuantizationConfig(**EIGHT), folder, places, offload_folder=tmp_path
    )
    with pytest.raises(AccelnbError, match="parts of it are offloaded: for training load it"):
        Accelerator().prepare(model)
