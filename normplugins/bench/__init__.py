"""What ``normplugins bench`` measures, each beside its baseline: norms, a training update, translating, preparing."""
