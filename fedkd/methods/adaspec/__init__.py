"""AdaSPEC: a small draft model learns from a large target only the tokens that it can still gain on.

`config`: the settings. `stages`: fine-tune the target, train a reference, train the draft. `decoding`: speculative
decoding, which measures how many of the draft's proposals the target accepts.

Paper: Hu et al. 2025 (arXiv 2510.19779).
"""
