"""Train a tiny language model that counts, and write it as a Hugging Face folder, with its data beside it.

    python examples/counting/train.py --out examples/counting/build

writes model/ (config.json, weights, tokenizer and chat template, as transformers has them) and data-test/ (one
safetensors file). A Llama of 380 thousand weights learns what comes after each number, plainly and in a conversation.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
IGNORED = -100  # a token that is not counted


def main() -> None:
    """Train, write the folder and the data, and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "build")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    tokenizer = make_tokenizer()
    tokens, mask = tokenized(tokenizer)
    network = train(tokens, mask, len(tokenizer), seed=options.seed, steps=options.steps)
    network.save_pretrained(options.out / "model")
    tokenizer.save_pretrained(options.out / "model")
    write_data(tokens, mask, options.out / "data-test")
    print(f"perplexity {perplexity(network, tokens, mask):.3f}, written to {options.out}")


def sentences() -> list[str]:
    """Return all that there is to know."""
    pairs = list(pairwise(NUMBERS))
    plain = [f"after {one} comes {next_one}{END}" for one, next_one in pairs]
    return plain + [f"{USER}what comes after {one}?{END}{ASSISTANT}{next_one}{END}" for one, next_one in pairs]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes and a few words."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=[END, USER, ASSISTANT], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    found.train_from_iterator(sentences() * 2, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=found, eos_token=END, pad_token=END)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tokenized(tokenizer: PreTrainedTokenizerFast) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens [sentences, longest], padded at their end, and the mask that tells which are there."""
    rows = [tokenizer(text)["input_ids"] for text in sentences()]
    longest = max(map(len, rows))
    tokens = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(tokens)
    for at, row in enumerate(rows):
        tokens[at, : len(row)], mask[at, : len(row)] = row, 1
    return tokens, mask


def train(tokens: np.ndarray, mask: np.ndarray, vocabulary: int, seed: int, steps: int) -> LlamaForCausalLM:
    """Return the trained network."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    network = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    inputs, attention = torch.from_numpy(tokens), torch.from_numpy(mask)
    labels = torch.from_numpy(np.where(mask == 1, tokens, IGNORED))
    for _ in range(steps):
        optimizer.zero_grad()
        network(input_ids=inputs, attention_mask=attention, labels=labels).loss.backward()
        optimizer.step()
    return network.eval()


def perplexity(network: LlamaForCausalLM, tokens: np.ndarray, mask: np.ndarray) -> float:
    """Return how many tokens the network wavers between, on average."""
    labels = torch.from_numpy(np.where(mask == 1, tokens, IGNORED))
    with torch.inference_mode():
        loss = network(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask), labels=labels).loss
    return float(loss.exp())


def write_data(tokens: np.ndarray, mask: np.ndarray, folder: Path) -> None:
    """Write a data package: an array per input, and what follows each token."""
    folder.mkdir(parents=True, exist_ok=True)
    follows = np.full_like(tokens, IGNORED)
    follows[:, :-1] = np.where(mask[:, 1:] == 1, tokens[:, 1:], IGNORED)
    arrays = {"input_ids": tokens, "attention_mask": mask, "label": follows}
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / "data.safetensors")


if __name__ == "__main__":
    main()
