"""BPKD: segmentation students learn a teacher's logits apart at the edges of objects and in their bodies."""
