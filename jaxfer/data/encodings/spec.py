"""Input specifications of models: size and statistics of images, tokenizer and lengths of text."""

from __future__ import annotations

import dataclasses

import jax

# The input fields of a text model, int32 [batch, length]: token ids, 1 for a token and 0 for padding, segments.
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a file's pixels become the model's input: `(crop(resize(pixels)) / 255 - mean) / std`.

    Attributes:
      size: (height, width, channels) of the input.
      mean: one value a channel, or a single one for all.
      std: likewise.
      interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`, as Pillow has them.
      resize: what an image is resized to before its centre of `size` is cut out: () to `size` itself, (n,) its shorter
        edge to n, (h, w) to that.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    interpolation: str = "bilinear"
    resize: tuple[int, ...] = ()

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch's input fields."""
        return {"image": jax.ShapeDtypeStruct((batch_size, *self.size), "float32")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPreprocessing:
    """How a text, or a pair of texts, becomes the model's input: the checkpoint's tokenizer, cut at `max_length`.

    Attributes:
      tokenizer: folder of a Hugging Face tokenizer; empty where none has been named yet. Ignored in comparisons: a
        copied tokenizer is the same model, and shares its compiled programs.
      tokenizer_sha256: sha256 (hex) of its files, the tokenizer's identity; empty takes the folder as it is.
      vocab: rows of the model's token embedding.
      types: token types the model tells apart.
      max_length: longest input in tokens, special ones included.
      buckets: lengths that batches are padded to, rising; the last is `max_length`. One program is compiled for each.
    """

    tokenizer: str = dataclasses.field(compare=False)
    tokenizer_sha256: str
    vocab: int
    types: int
    max_length: int
    buckets: tuple[int, ...]

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the input fields of a batch of the longest bucket."""
        shape = jax.ShapeDtypeStruct((batch_size, self.max_length), "int32")
        return dict.fromkeys(TEXT_INPUTS, shape)
