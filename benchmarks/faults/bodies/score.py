"""An act where the payload has one, else the real job."""

from benchmarks.faults.bodies.acts import acted_or

run = acted_or("score")
