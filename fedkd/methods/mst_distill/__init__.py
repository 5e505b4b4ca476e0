"""MST-Distill: from a two-modality and a cross-modal network to a mixture of masked teachers for one modality."""
