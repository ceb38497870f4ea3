"""Whole folders of adapters: found, planned, converted in groups, here, in processes or on a cluster."""
