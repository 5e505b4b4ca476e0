"""Pure maths on tensors and arrays: losses, masks, densities, statistics. No model, device, configuration or I/O."""
