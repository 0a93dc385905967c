"""Lab 08: distillation."""
