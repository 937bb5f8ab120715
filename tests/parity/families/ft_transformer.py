"""FT-Transformer as the paper and its appendix describe it, with the parameter names of the authors' package."""

import numpy as np
import torch
from torch import nn

from tests.parity.families import Case

NUMBERS = ("age", "weight", "height")
VALUES = (("blue", "green", "red"), ("round",))
COLUMNS = dict(
    numbers=NUMBERS,
    means=(0.0, 0.0, 0.0),
    stds=(1.0, 1.0, 1.0),
    categories=("colour", "shape"),
    values=VALUES,
)


class Numbers(nn.Module):
    def __init__(self, columns, width):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.zeros(columns, width)) for _ in range(2))

    def forward(self, x):
        return x.unsqueeze(-1) * self.weight + self.bias


class Categories(nn.Module):
    def __init__(self, sizes, width):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.bias = nn.Parameter(torch.zeros(len(sizes), width))

    def forward(self, x):
        return torch.stack([table(x[:, i]) for i, table in enumerate(self.embeddings)], 1) + self.bias


class First(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.W_q, self.W_k, self.W_v, self.W_out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, queries, x):
        def apart(y):
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            apart(self.W_q(queries)), apart(self.W_k(x)), apart(self.W_v(x))
        )
        return self.W_out(mixed.transpose(1, 2).flatten(2))


class ReGLU(nn.Module):
    def forward(self, x):
        value, gate = x.chunk(2, -1)
        return value * gate.relu()


class Block(nn.Module):
    def __init__(self, width, heads, mlp_width, *, first, last):
        super().__init__()
        self.attention = Attention(width, heads)
        if not first:
            self.attention_normalization = nn.LayerNorm(width)
        self.ffn_normalization = nn.LayerNorm(width)
        self.ffn = nn.Sequential()
        self.ffn.add_module("linear1", nn.Linear(width, 2 * mlp_width))
        self.ffn.add_module("activation", ReGLU())
        self.ffn.add_module("linear2", nn.Linear(mlp_width, width))
        self.first, self.last = first, last

    def forward(self, x):
        y = x if self.first else self.attention_normalization(x)
        asked = slice(0, 1) if self.last else slice(None)  # the head reads the class token alone
        x = x[:, asked] + self.attention(y[:, asked], y)
        return x + self.ffn(self.ffn_normalization(x))


class FTTransformer(nn.Module):
    def __init__(self, numbers, sizes, outputs, *, width, heads, mlp_width, blocks):
        super().__init__()
        self.cls_embedding = First(width)
        self.cont_embeddings = Numbers(numbers, width) if numbers else None
        self.cat_embeddings = Categories(sizes, width) if sizes else None
        self.backbone = nn.Module()
        self.backbone.blocks = nn.ModuleList(
            Block(width, heads, mlp_width, first=i == 0, last=i == blocks - 1) for i in range(blocks)
        )
        self.backbone.output = nn.Sequential()
        self.backbone.output.add_module("normalization", nn.LayerNorm(width))
        self.backbone.output.add_module("activation", nn.ReLU())
        self.backbone.output.add_module("linear", nn.Linear(width, outputs))
        self.tokens = nn.Identity()  # its output is the stem's

    def forward(self, numbers, categories):
        tokens = [self.cls_embedding.weight.expand(len(numbers), 1, -1)]
        tokens += [] if self.cont_embeddings is None else [self.cont_embeddings(numbers)]
        tokens += [] if self.cat_embeddings is None else [self.cat_embeddings(categories)]
        x = self.tokens(torch.cat(tokens, 1))
        for block in self.backbone.blocks:
            x = block(x)
        return self.backbone.output(x[:, 0])


def batch(numbers, sizes):
    def drawn(examples, seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(examples, numbers)).astype(np.float32)
        categories = rng.integers(0, sizes or 1, (examples, len(sizes)), dtype=np.int32)
        return {"numbers": x, "missing": np.zeros_like(x), "categories": categories}

    return drawn


def theirs(batch):
    return {
        "numbers": torch.from_numpy(batch["numbers"]),
        "categories": torch.from_numpy(batch["categories"]).long(),
    }


def case(columns=COLUMNS, *, width=18, heads=3, mlp_width=7, blocks=3, rate=0.05, golden=False):
    numbers, sizes = len(columns["numbers"]), [len(words) + 1 for words in columns["values"]]
    return Case(
        layout=("ft_transformer", "rtdl"),
        make=lambda: FTTransformer(numbers, sizes, 3, width=width, heads=heads, mlp_width=mlp_width, blocks=blocks),
        units={"stem": "tokens", **{f"block_{i}": f"backbone.blocks.{i}" for i in range(blocks - 1)}},
        batch=batch(numbers, sizes),
        theirs=theirs,
        last=r".*\.(W_out|linear2)",
        rate=rate,
        options=dict(columns, heads=heads),
        golden=golden,
    )


CASES = {
    "odd": case(golden=True),
    "numbers": case({**COLUMNS, "categories": (), "values": ()}, blocks=2),
    "categories": case({**COLUMNS, "numbers": (), "means": (), "stds": ()}, blocks=2),
    # The authors' default of three blocks.
    "default": case(width=192, heads=8, mlp_width=256, rate=0.0),
}
