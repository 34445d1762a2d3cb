"""An independent decoder in plain numpy and float64, written from the papers' formulas.

Deliberately naive: one position and one head at a time, separate matrices for queries, keys,
values, gate and up, and rotation by complex numbers.
"""

import numpy as np

from mixlab.recipes import Architecture


def logits(weights: dict[str, np.ndarray], shape: Architecture, tokens: np.ndarray) -> np.ndarray:
    """Logits (place, vocabulary) of one sequence of tokens (place,)."""
    x = weights["embedding.weight"][tokens]
    for i in range(shape.layers):
        own = {
            name.removeprefix(f"blocks.{i}."): value
            for name, value in weights.items()
            if name.startswith(f"blocks.{i}.")
        }
        x = x + attention(own, shape, rms_norm(x, own["attention_norm.weight"], shape))
        x = x + swiglu(own, shape, rms_norm(x, own["ffn_norm.weight"], shape))
    head = weights.get("head.weight", weights["embedding.weight"])
    return rms_norm(x, weights["norm.weight"], shape) @ head.T


def rms_norm(x: np.ndarray, gain: np.ndarray, shape: Architecture) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + shape.norm_epsilon) * gain


def swiglu(own: dict[str, np.ndarray], shape: Architecture, x: np.ndarray) -> np.ndarray:
    gate = x @ own["ffn.gate_up.weight"][: shape.ffn_width].T
    up = x @ own["ffn.gate_up.weight"][shape.ffn_width :].T
    return (gate / (1 + np.exp(-gate)) * up) @ own["ffn.down.weight"].T


def attention(own: dict[str, np.ndarray], shape: Architecture, x: np.ndarray) -> np.ndarray:
    size, places = shape.head_width, len(x)
    rows = own["attention.qkv.weight"]
    query_rows, key_rows = shape.heads * size, shape.kv_heads * size
    queries = x @ rows[:query_rows].T
    keys = x @ rows[query_rows : query_rows + key_rows].T
    values = x @ rows[query_rows + key_rows :].T
    mixed = np.zeros((places, shape.width))
    for head in range(shape.heads):
        shared = head // (shape.heads // shape.kv_heads)
        mine = slice(head * size, (head + 1) * size)
        theirs = slice(shared * size, (shared + 1) * size)
        q, k = rotate(queries[:, mine], shape), rotate(keys[:, theirs], shape)
        for place in range(places):
            scores = k[: place + 1] @ q[place] / np.sqrt(size)
            probabilities = np.exp(scores - scores.max())
            probabilities /= probabilities.sum()
            mixed[place, mine] = probabilities @ values[: place + 1, theirs]
    return mixed @ own["attention.output.weight"].T


def rotate(x: np.ndarray, shape: Architecture) -> np.ndarray:
    """Pair i of (x_i, x_{i + half}) as a complex number, times e^(i * place * rate)."""
    half = shape.head_width // 2
    rates = shape.rope_theta ** (-2 * np.arange(half) / shape.head_width)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * np.outer(np.arange(len(x)), rates))
    return np.concatenate((turned.real, turned.imag), axis=1)
