"""Growth by stacking (Gstack): a shallow model is trained, stacked to the full depth, trained on.

Source: arXiv 2405.15319; tongxuluo/prts at bf6f7747. A 7B model of the paper reached its loss at
300B tokens with 194B. `planning.py` says when and by how much, `stacking.py` grows a file of
weights, and `running.py` trains a grown recipe from its first to its last token.
"""
