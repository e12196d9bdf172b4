"""Small parts of an assistant: three chat tokenizers, an aligned model, slides, questions; run by two processes too."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from feature_grids import make_features, scattered_cells
from pathflip.assistant import LanguageModelSpec, LoadedAssistant, LoraSpec, VisualTokenizer, open_language_model
from pathflip.assistant.language_model import open_tokenizer
from pathflip.checkpoint import InputContract, save_checkpoint
from pathflip.data.align import TextSpec
from pathflip.features import write_features
from pathflip.inference import load
from pathflip.models import build_model
from pathflip.models.assistant import Assistant, AssistantConfig
from pathflip.text.chat import ChatTemplate
from pathflip.text.tokenizer import train_tokenizer

WORDS = ["Keratin pearls are seen in the upper left.", "No necrosis is identified.", "Mucin pools are present."]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ raise_exception('no system turns') }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    "llama3": (LLAMA3, "<|eot_id|>", ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "mistral": (MISTRAL, "</s>", ["<s>", "</s>", "[INST]", "[/INST]"]),
    "thinking": (THINKING, "<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    "none": ("", "</s>", ["<s>", "</s>"]),
}
SAID = [
    "Where is the necrosis?\nA. upper left\nB. lower right", "B", "How extensive is it?", "It is focal, about 5 %.",
    "Describe this slide.", *WORDS, "user assistant system slide Slide 1: 2: A. B. C. D. E.", "papillary carcinoma",
]  # fmt: skip


def chat_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of a few hundred tokens with one of the templates."""
    template, end, special = TEMPLATES[name]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        SAID * 3, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end, pad_token="<pad>", bos_token=special[0],
        additional_special_tokens=special[1:],
    )  # fmt: skip
    tokenizer.chat_template = template or None
    return tokenizer


def shrunk_qwen3_4b(vocab_size: int, end_id: int) -> Qwen3Config:
    """Qwen3-4B-Instruct-2507's published configuration with every size made small; the architecture is the same."""
    published = {
        "attention_bias": False, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2560, "intermediate_size": 9728,
        "max_position_embeddings": 262144, "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
        "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
    }  # fmt: skip
    small = {
        "head_dim": 8, "hidden_size": 32, "intermediate_size": 64, "max_window_layers": 2, "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 1, "vocab_size": vocab_size, "eos_token_id": end_id,
    }  # fmt: skip
    return Qwen3Config(**(published | small))


def save_language_model(folder: Path, name: str = "chatml", seed: int = 0) -> Path:
    """A tiny random Qwen3 with its tokenizer, in Hugging Face layout."""
    tokenizer = chat_tokenizer(name)
    torch.manual_seed(seed)
    lm = Qwen3ForCausalLM(shrunk_qwen3_4b(len(tokenizer), tokenizer.eos_token_id))
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_slide(name: str, seed: int = 0, num: int = 60):
    features = make_features(scattered_cells(np.random.default_rng(seed), num), seed=seed, invalid=(2, 9))
    return replace(features, slide_id=name, info=replace(features.info, slide_id=name))


def save_aligned(folder: Path, kind: str = "pathflip") -> Path:
    """An untrained alignment model that reads :func:`tiny_slide`."""
    sizes = {
        "pathflip": {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2},
        "published": {
            "width": 16, "embed_dim": 8, "num_layers": 2, "num_heads": 2, "ffn_width": 32, "num_queries": 2,
            "region_heads": 2, "mixing_heads": 2,
        },
    }  # fmt: skip
    tokenizer = train_tokenizer([*WORDS, *SAID], 300)
    torch.manual_seed(0)
    net = build_model({"kind": kind, "feature_dim": 5, "vocab_size": tokenizer.vocab_size, **sizes[kind]})
    save_checkpoint(
        folder,
        net,
        contract=InputContract.of(tiny_slide("x")),
        tokenizer=tokenizer,
        text=TextSpec(),
        recipe={"regions": {"side": 3}},
    )
    return folder


def assemble(tmp_path, kind="pathflip", template="chatml", train="frozen", **settings) -> LoadedAssistant:
    """An untrained assistant of tiny parts, in memory; its parts are in ``tmp_path``."""
    spec = LanguageModelSpec(
        source=str(save_language_model(tmp_path / "lm", template)), train=train, lora=LoraSpec(rank=4, alpha=8)
    )
    aligned = load(save_aligned(tmp_path / "aligned", kind))
    config = AssistantConfig(**{"embed_dim": 8, "num_patches": 5, "tiles_per_text": 3, **settings})
    torch.manual_seed(1)
    template = ChatTemplate(open_tokenizer(spec.source))
    model = Assistant(config, open_language_model(spec), [ids[-1] for ids in template.letter_ids(26)]).eval()
    return LoadedAssistant(model, aligned, template, VisualTokenizer(aligned, config), spec, {})


def save_cohort(folder: Path, num_slides: int = 6) -> Path:
    """Feature files, captions and questions of a few slides."""
    captions, questions = [], []
    for i in range(num_slides):
        slide = f"slide-{i}"
        write_features(folder / "features" / f"{slide}.h5", tiny_slide(slide, seed=i))
        captions.append({"slide": slide, "patient": f"p{i}", "text": " ".join(WORDS[: 1 + i % 3])})
        for q in range(3):
            questions.append(
                {
                    "slide": slide, "question": "Where is the necrosis?", "answer": "AB"[(i + q) % 2],
                    "options": ["upper left", "lower right"], "category": "location", "needs_slide": q > 0,
                }
            )  # fmt: skip
    for name, rows in (("captions", captions), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def small_recipe(steps=6, **train):
    """The small second stage, some steps long."""
    from pathflip.recipes.instruct import instruct_small_stage1, instruct_small_stage2

    recipe = instruct_small_stage2()
    optim = recipe.train.optim.model_copy(update={"warmup_steps": 1})
    changes = {"steps": steps, "batch_size": 4, "save_every": 3, "optim": optim, **train}
    return recipe.model_copy(
        update={
            "assistant": instruct_small_stage1().assistant,
            "train": recipe.train.model_copy(update=changes),
        }
    )


def train(cohort: Path, out: Path) -> None:
    """A few steps of the small recipe: what one process does, and two must do together."""
    from pathflip.data.instruct_examples import read_examples
    from pathflip.train.instruct_run import train_instruct

    learned = read_examples(cohort / "captions.jsonl") + read_examples(cohort / "questions.jsonl")
    recipe = small_recipe(steps=3, device="cpu")
    recipe = recipe.model_copy(update={"assistant": {**recipe.assistant, "vector_dropout": 0.0}})
    parts = {"aligned": cohort / "aligned", "language_model": cohort / "lm"}
    train_instruct(recipe, learned, sorted((cohort / "features").glob("*.h5")), out, **parts)


if __name__ == "__main__":
    import sys

    train(Path(sys.argv[1]), Path(sys.argv[2]))
