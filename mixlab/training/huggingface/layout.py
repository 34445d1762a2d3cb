"""How a Llama of transformers names and cuts what the decoder holds, both ways.

Every one of our tensors is one or more of theirs, top to bottom; a configuration is an
Architecture and a few fixed words.
"""

from collections.abc import Mapping
from typing import Any

from mixlab.errors import InvalidRecipe
from mixlab.recipes import Architecture

Sizes = tuple[int, ...]

# What LlamaConfig takes where a configuration doesn't say.
NORM_EPSILON, ROPE_THETA, CONTEXT = 1e-6, 10_000.0, 2048
# Settings that must be as the decoder is; anything else would change the function.
FIXED: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
}


def parts_of(shape: Architecture) -> dict[str, dict[str, Sizes]]:
    """Of each of our tensors: theirs, top to bottom, with their shapes."""
    width, ffn, table = shape.width, shape.ffn_width, (shape.vocabulary, shape.width)
    shared = shape.kv_heads * shape.head_width
    parts: dict[str, dict[str, Sizes]] = {"embedding.weight": {"model.embed_tokens.weight": table}}
    for i in range(shape.layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        parts |= {
            f"{ours}.attention_norm.weight": {f"{theirs}.input_layernorm.weight": (width,)},
            f"{ours}.attention.qkv.weight": {
                f"{attention}.q_proj.weight": (width, width),
                f"{attention}.k_proj.weight": (shared, width),
                f"{attention}.v_proj.weight": (shared, width),
            },
            f"{ours}.attention.output.weight": {f"{attention}.o_proj.weight": (width, width)},
            f"{ours}.ffn_norm.weight": {f"{theirs}.post_attention_layernorm.weight": (width,)},
            f"{ours}.ffn.gate_up.weight": {
                f"{mlp}.gate_proj.weight": (ffn, width),
                f"{mlp}.up_proj.weight": (ffn, width),
            },
            f"{ours}.ffn.down.weight": {f"{mlp}.down_proj.weight": (width, ffn)},
        }
    parts["norm.weight"] = {"model.norm.weight": (width,)}
    if not shape.tied_head:
        parts["head.weight"] = {"lm_head.weight": table}
    return parts


def config_of(shape: Architecture, *, number_format: str, end: int) -> dict[str, Any]:
    """The LlamaConfig of a shape, whose documents end with the token `end`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": shape.tied_head,
        "rms_norm_eps": shape.norm_epsilon,
        # Both spellings: transformers 5 reads the second, 4 and other programs the first.
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "torch_dtype": number_format,
        # Said outright, because a Llama's defaults are 1 and 2.
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": None,
    }


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The shape that a LlamaConfig's JSON tells. Raises InvalidRecipe where it is no such shape."""
    for name, wanted in FIXED.items():
        if config.get(name, wanted) != wanted:
            raise InvalidRecipe(
                f"config.json has {name} {config[name]!r}, but the decoder has {wanted!r}; "
                "only plain Llama models can be imported."
            )
    heads = _whole(config, "num_attention_heads")
    shape = Architecture(
        layers=_whole(config, "num_hidden_layers"),
        width=_whole(config, "hidden_size"),
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads", heads),
        ffn_width=_whole(config, "intermediate_size"),
        vocabulary=_whole(config, "vocab_size"),
        context=_whole(config, "max_position_embeddings", CONTEXT),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        rope_theta=_theta(config),
        norm_epsilon=_positive("rms_norm_eps", config.get("rms_norm_eps", NORM_EPSILON)),
    )
    if _whole(config, "head_dim", shape.head_width) != shape.head_width:
        raise InvalidRecipe(
            f"config.json has head_dim {config['head_dim']}, but hidden_size / "
            f"num_attention_heads is {shape.head_width}; only models where they are equal can be "
            "imported."
        )
    return shape


def _theta(config: Mapping[str, Any]) -> float:
    """The base of the rotations. Raises InvalidRecipe where they are scaled or partial."""
    rotation = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rotation.get("rope_type", rotation.get("type", "default"))
    part = rotation.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if kind != "default" or part != 1.0:
        raise InvalidRecipe(
            f"config.json has rotations of type {kind!r} over {part} of a head, but the decoder "
            "turns all of it by plain ones; only models without rope scaling can be imported."
        )
    theta = rotation.get("rope_theta", config.get("rope_theta", ROPE_THETA))
    return _positive("rope_theta", theta)


def _whole(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    found = default if value is None else value
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise InvalidRecipe(
            f"config.json has {name} {value!r}; it must be a whole number of at least 1."
        )
    return found


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidRecipe(f"config.json has {name} {value!r}; it must be a positive number.")
    return float(value)
