"""Tiny model: a word-level language model of well under a million parameters, trained and served like any other.

Invariant: the same arguments give the same bytes. The vocabulary is what the caller's world can say: single words and
numbers, and reply pieces (the fixed parts of its JSON replies), so that a reply of k actions is 2k + 2 tokens long.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from synth_ray.learn.seeding import seeded

UNKNOWN, PAD, START, END = SPECIAL_TOKENS = ("<unk>", "<pad>", "<|im_start|>", "<|im_end|>")
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] or '' }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny_model(
    words: Sequence[str],
    reply_pieces: Sequence[str],
    out_dir: Path,
    seed: int = 0,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 2,
    intermediate: int = 352,
    max_positions: int = 512,
) -> None:
    """Writes an untrained Llama (fp32 safetensors, untied embeddings) and its tokenizer for AutoModel and vLLM.

    Raises ValueError for a word that the tokenizer would split, because it could never be produced.
    """
    tokenizer = build_tokenizer(words, reply_pieces, max_positions)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(seed):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)


def build_tokenizer(words: Sequence[str], reply_pieces: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """A word-level ChatML tokenizer; white space, so also the template's newlines, separates words and is no token.

    Raises ValueError for a word that white space or punctuation would split.
    """
    splitter = pre_tokenizers.Whitespace()
    for word in words:
        if [piece for piece, _ in splitter.pre_tokenize_str(word)] != [word]:
            raise ValueError(f"{word!r} is not one word")
    vocabulary = dict.fromkeys([*SPECIAL_TOKENS, *reply_pieces, *ROLES, *words])
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in reply_pieces])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        unk_token=UNKNOWN,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )
