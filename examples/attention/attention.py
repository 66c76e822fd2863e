"""Builds the network of the attention package; `model.yaml` names it as `attention:build`."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

_TOKENS = 30
_WIDTH = 64
_HEADS = 4


class Block(nn.Module):
    """Self-attention over the measurements, then a feed-forward part; both with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(_WIDTH)
        self.query_key_value = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.output = nn.Linear(_WIDTH, _WIDTH)
        self.before_feed_forward = nn.LayerNorm(_WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self._attend(self.before_attention(tokens))
        return tokens + self.feed_forward(self.before_feed_forward(tokens))

    def _attend(self, tokens: torch.Tensor) -> torch.Tensor:
        heads = self.query_key_value(tokens).unflatten(-1, (3, _HEADS, _WIDTH // _HEADS))
        query, key, value = (heads[:, :, part].transpose(1, 2) for part in range(3))
        return self.output(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Classifier(nn.Module):
    """Each measurement is a token: its value times a learned vector, plus a learned vector that says which it is."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(_TOKENS, _WIDTH) * 0.1)
        self.place = nn.Parameter(torch.randn(_TOKENS, _WIDTH) * 0.1)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(_WIDTH, 2)

    def forward(self, measurements: torch.Tensor) -> torch.Tensor:
        tokens = measurements.unsqueeze(-1) * self.value + self.place
        return self.head(self.blocks(tokens).mean(1))


def build() -> nn.Module:
    """Return the untrained network: measurements [rows, 30] to logits [rows, 2]."""
    return Classifier()
