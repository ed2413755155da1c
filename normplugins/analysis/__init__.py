"""Measurements on trained models: what they see, and what a norm's statistics carry."""
