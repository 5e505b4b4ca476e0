"""SKD-CAG: unlearning a text backdoor of a diffusion model by self-distillation with cross-attention guidance."""
