"""Multiple-round training: the text that a model still finds hard is read once more.

    round 1                    a run like any other
    scores.py, scoring.py      the loss of every sequence that it read, by the frozen model
    plan.py                    how many rounds, how long each
    drawing.py                 a share of them, without replacement, p = softmax(loss)
    corpora/drawn.py           the corpus of those alone, which the next round trains on
    running.py                 one after the other, in a folder

Source: PanGu-pi Pro, arXiv 2402.02791 section 3.4, and YuchuanTian/RethinkTinyLM's README, which
draws whole batches with `torch.multinomial(p, N_0, replacement=False)`.
"""
