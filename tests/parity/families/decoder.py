import transformers

from tests.parity.families import Case

TINY = dict(
    **dict(vocab_size=53, hidden_size=30, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2),
    **dict(intermediate_size=27, head_dim=8, max_position_embeddings=16, num_labels=3, pad_token_id=1),
)
SMOLLM2_135M = dict(
    **dict(vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3),
    **dict(intermediate_size=1536, max_position_embeddings=8192, num_labels=3, pad_token_id=2, rms_norm_eps=1e-5),
    **dict(tie_word_embeddings=True, rope_parameters={"rope_theta": 100000.0, "rope_type": "default"}),
)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0)
TYPES = ["sliding_attention", "full_attention"]


def norms(model):
    """Scales near 1, which settle draws near 0; scaled embeddings of the size of others."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and not type(module).__name__.startswith("Gemma"):
            module.weight.data += 1.0
        if hasattr(module, "embed_scale"):
            module.weight.data *= 0.3


def case(name, layers=2, golden=False, rate=0.05, gain=0.5, **config):
    def make():
        of = getattr(transformers, f"{name}Config")(**config)
        return getattr(transformers, f"{name}ForSequenceClassification")(of)

    return Case(
        layout=("decoder", "hf"),
        make=make,
        units={"stem": "model.embed_tokens"} | {f"block_{i}": f"model.layers.{i}" for i in range(layers)},
        last=r".*\.(o_proj|down_proj)",
        gain=gain,
        prepared=norms,
        outputs=3,
        rate=rate,
        golden=golden,
    )


CASES = {
    "llama": case("Llama", golden=True, **TINY, rope_parameters={"rope_theta": 500.0, **LLAMA3}),
    "llama_bias": case(
        "Llama",
        **{**TINY, "head_dim": None, "num_key_value_heads": 6, "hidden_size": 36},
        **dict(attention_bias=True, mlp_bias=True, rope_parameters={"rope_type": "linear", "factor": 2.5}),
    ),
    "mistral": case("Mistral", **TINY, sliding_window=3),
    "qwen2": case("Qwen2", **TINY, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": case("Qwen3", golden=True, **TINY, rms_norm_eps=1e-5),
    "gemma": case("Gemma", **{**TINY, "num_key_value_heads": 1}),
    "gemma3": case("Gemma3Text", golden=True, **TINY, layer_types=TYPES, sliding_window=3, query_pre_attn_scalar=11),
    "smollm2_135m": case("Llama", layers=30, rate=0.0, gain=0.4, **SMOLLM2_135M),
}
