"""Write a Hugging Face folder with random weights: python checkpoint.py FOLDER HIDDEN LAYERS

The architecture is Llama's, the weights are bfloat16, as large models are published. It has a tokenizer, without which
the other tools do not start.
"""

import sys

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_HEAD = 64  # channels of an attention head
_SHARED = 4  # heads that read the same keys and values


def main(folder: str, hidden: int, layers: int) -> None:
    """Make the folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // _HEAD,
        num_key_value_heads=hidden // _HEAD // _SHARED,
        vocab_size=hidden * 16,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words = WordLevel({f"t{number}": number for number in range(config.vocab_size)}, unk_token="t0")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), unk_token="t0", bos_token="t1", eos_token="t2"
    )
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
