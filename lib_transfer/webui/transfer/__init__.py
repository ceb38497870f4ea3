"""The view that transfers chosen LoRAs."""
