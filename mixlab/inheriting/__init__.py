"""Parameter inheritance: a smaller model that begins with the best part of a larger one.

    donor --layers that the loss misses least go--> --units inside the layers go--> heir

1. Layers, by skip-layer sensitivity: the loss on calibration batches of the mixture with one
   layer left out. The least missed goes, the others are measured again, until as many are left
   as the heir has. First and last layer stay.
2. Units in the kept layers, by their importance: FFN neurons (a row of gate and of up, a column
   of down), query heads and groups of keys and values (whole heads, so that the two halves that
   a rotation turns stay together), and hidden dimensions, the same ones in every layer, because
   the residual stream is one.

Source: the two steps, the protected ends and the criteria L1, L2, first-order Taylor and learned
masks are of PanGu-pi Pro (arXiv 2402.02791), which scores them 46.06, 47.00, 47.90 and 48.08
where random weights have 42.06. Its layer indices and the objective of its masks are not public:
measuring again after each layer (layers.py), the mask's objective (masks.py) and the gains of the
norms (gains.py) are choices made here.
Limits: a head keeps its width; a donor has at least as many queries per key/value head as its
heir; the whole donor is in memory in float32, and for "taylor" its gradients too.
"""

from mixlab.inheriting.calibration import Progress, calibration
from mixlab.inheriting.donors import Donor, check_tokens_mean_the_same, read_donor
from mixlab.inheriting.running import Inheritance, inherit
from mixlab.recipes.heirs import IMPORTANCES, Importance, check_heir

__all__ = [
    "IMPORTANCES",
    "Donor",
    "Importance",
    "Inheritance",
    "Progress",
    "calibration",
    "check_heir",
    "check_tokens_mean_the_same",
    "inherit",
    "read_donor",
]
