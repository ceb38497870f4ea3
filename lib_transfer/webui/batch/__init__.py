"""The view that plans and transfers whole folders of LoRAs, with one table of results."""
