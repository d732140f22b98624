"""Base model, LoRA, continued pre-training, instruction tuning and preference optimisation, on Transformers, PEFT and TRL."""
