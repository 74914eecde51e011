"""How far a smaller cache moves the model: its next-token distributions against the full cache's.

    measures    each distance once, with its formula and source: over whole vocabularies, over top-k
    records     what was found at every position of one example, plain data both ways

No engine, no torch: the embedded server hands tensors in, everybody else numbers.
"""
