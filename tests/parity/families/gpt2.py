from transformers import GPT2Config, GPT2ForSequenceClassification

from tests.parity.families import Case

ODD = dict(vocab_size=53, n_embd=35, n_layer=2, n_head=5, n_inner=27, n_positions=11)
STILL = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None)


def case(layers, **config):
    return Case(
        layout=("gpt2", "hf"),
        make=lambda: GPT2ForSequenceClassification(GPT2Config(**config, **STILL, num_labels=3, pad_token_id=1)),
        units={"stem": "transformer.drop"} | {f"block_{i}": f"transformer.h.{i}" for i in range(layers)},
        last=r".*\.c_(attn|fc|proj)",
        gain=0.4 if layers < 3 else 0.04,
        outputs=3,
        rate=0.0 if layers > 2 else 0.05,
        golden=layers < 3,
    )


CASES = {"odd": case(2, **ODD), "base": case(12)}
