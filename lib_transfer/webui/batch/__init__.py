"""The Batch view: whole folders of LoRAs, planned, converted and told of in one table."""
