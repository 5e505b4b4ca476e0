"""Weight-aware distillation: a contrastive teacher says how far an unlabelled item is to be believed.

Stages: the teacher learns without labels; then, several times over: knowledge (pseudo labels and weights), student,
promotion of the surest items to the labelled set. Paper: Du et al. 2023 (ICCV).
"""
