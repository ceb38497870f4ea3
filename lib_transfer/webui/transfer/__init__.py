"""The view that transfers the chosen LoRAs."""
