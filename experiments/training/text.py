"""The words of the prompts, and small text encoders in the formats of CLIP, T5 and Llama.

Every word of a prompt is one token. The encoders are trained together with their transformer.
"""

from __future__ import annotations

from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    LlamaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GRAMMAR = ("a", "an", "of", "left", "right", "above", "below", "moving", "up", "down")
WORDS = DIGITS + GRAMMAR
WIDTH = 64  # of every text encoder's output
MAX_TOKENS = 8  # of a prompt, its end token included


def _merges(words: list[list[str]]) -> list[tuple[str, str]]:
    """Byte-pair merges that join the pieces of every word from the left."""
    found: dict[tuple[str, str], None] = {}
    for pieces in words:
        joined = pieces[0]
        for piece in pieces[1:]:
            found[(joined, piece)] = None
            joined += piece
    return list(found)


def _vocabulary(special: tuple[str, ...], words: list[list[str]]) -> dict[str, int]:
    """Special tokens, single pieces, then everything that a merge makes."""
    tokens = dict.fromkeys(special)
    tokens.update(dict.fromkeys(sorted({piece for pieces in words for piece in pieces})))
    tokens.update(dict.fromkeys(a + b for a, b in _merges(words)))
    return {token: index for index, token in enumerate(tokens)}


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding as CLIP has it: words end in </w>."""
    words = [[*word[:-1], word[-1] + "</w>"] for word in WORDS]
    special = ("<|startoftext|>", "<|endoftext|>")
    return CLIPTokenizer(vocab=_vocabulary(special, words), merges=_merges(words), model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """Unigram as T5 has it: words begin with an underline; single letters stand in for unknown words."""
    letters = sorted(set("".join(WORDS)))
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    vocab = [*special, *(("▁" + word, -1.0) for word in WORDS), ("▁", -8.0), *((x, -10.0) for x in letters)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=MAX_TOKENS)


def llama_tokenizer() -> LlamaTokenizer:
    """Byte-pair encoding as Llama has it: words begin with an underline, padding on the right."""
    words = [["▁", *word] for word in WORDS]
    special = ("<unk>", "<s>", "</s>")
    return LlamaTokenizer(
        vocab=_vocabulary(special, words), merges=_merges(words), pad_token="</s>", padding_side="right"
    )


def clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 64; its pooled output is the end token's."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, projection_dim=WIDTH,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Two layers of width 64."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=WIDTH, d_kv=16, d_ff=2 * WIDTH, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu", dropout_rate=0.0, relative_attention_num_buckets=8,
            relative_attention_max_distance=MAX_TOKENS,
        )
    )  # fmt: skip


def llama_encoder(tokenizer: LlamaTokenizer) -> LlamaModel:
    """Four layers of width 64; HunyuanVideo reads the third hidden state from the end."""
    return LlamaModel(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=32,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
